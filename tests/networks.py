"""Networks for the tests, and gated graphs with random units shut."""

import copy
import functools

import numpy as np
import torch
import torchvision
from torch import Tensor, fx, nn

import vibfx
from vibfx.gates import gates_of
from vibfx.passes import InsertGates

aten = torch.ops.aten

SIDE = 64


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


class Residual(nn.Module):
    """A small residual network with batch norm, with or without projection shortcuts."""

    def __init__(self, channels: int = 8, *, projection: bool = True, classes: int = 10) -> None:
        super().__init__()
        wide = 2 * channels if projection else channels
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.block1 = Block(channels, channels)
        self.block2 = Block(channels, wide, stride=2)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.MaxPool2d(stride)
        if channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def vgg() -> nn.Module:
    """VGG-11 with a narrow classifier: its 100 million weights would only take time."""
    model = torchvision.models.vgg11_bn(num_classes=50)
    for position, (wide, narrow) in {0: (25088, 256), 3: (256, 256), 6: (256, 50)}.items():
        model.classifier[position] = nn.Linear(wide, narrow)
    return model


def densenet() -> nn.Module:
    """DenseNet-121 with fewer layers in each of its four blocks."""
    return torchvision.models.DenseNet(16, (2, 3, 4, 2), 32, num_classes=50)


# The networks that every user starts from, with the shape of one example.
ARCHITECTURES = {
    "lenet": (lenet, (1, 28, 28)),
    "vgg11_bn": (vgg, (3, SIDE, SIDE)),
    "resnet18": (torchvision.models.resnet18, (3, SIDE, SIDE)),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (3, SIDE, SIDE)),
    "densenet": (densenet, (3, SIDE, SIDE)),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, (3, SIDE, SIDE)),
}


class SideBySide(nn.Module):
    """Two branches of different cost, each of which may go, but not both: for 12 features."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(12, 6), nn.Linear(3, 6), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        few = x.unflatten(1, (3, 4)).mean(2)
        return self.head(torch.cat([self.wide(x).relu(), self.narrow(few).relu()], 1))


def traced(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> fx.GraphModule:
    generator = torch.Generator().manual_seed(seed)
    return vibfx.trace(model, torch.randn(2, *shape, generator=generator))


def gated(graph: fx.GraphModule) -> fx.GraphModule:
    return InsertGates(vibfx.analyze(graph))(graph).graph_module


def shut_half(module: fx.GraphModule, seed: int = 0, share: float = 0.5) -> None:
    """Random gate means from 0.5 to 1.5, and a random share of every gate's units shut."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu.uniform_(0.5, 1.5, generator=generator)
            order = torch.randperm(gate.units, generator=generator)
            gate.mu[order[: int(share * gate.units)]] = 0.0


def randomize(module: fx.GraphModule, shape: tuple[int, ...], seed: int = 0) -> None:
    """Shift biases and norms away from their trivial start, and fit the running statistics.

    On the gated graph as it is, so that the signal keeps its size all the way through: else the
    output would hardly depend on the input, and any comparison would pass.
    """
    generator = torch.Generator().manual_seed(seed)
    gates = tuple(gates_of(module))
    norms = module.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    norms = [norm for norm in norms if norm.args[3] is not None]  # else it has no running ones
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1 and not name.startswith(gates or ("\0",)):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        _set(norms, training=True, momentum=1.0)
        module.recompile()
        module(torch.randn(8, *shape, generator=generator))
        _set(norms, training=False, momentum=0.1)
        module.recompile()


def _set(norms: list[fx.Node], *, training: bool, momentum: float) -> None:
    for norm in norms:
        norm.update_arg(5, training)
        norm.update_arg(6, momentum)


@functools.cache
def original(name: str) -> fx.GraphModule:
    """One of ``ARCHITECTURES``, traced; shared by all tests, so not to be changed."""
    build, shape = ARCHITECTURES[name]
    torch.manual_seed(0)
    return traced(build().eval(), shape)


def shut_network(name: str, seed: int = 0) -> fx.GraphModule:
    """One of ``ARCHITECTURES`` with gates, a random half of every group shut."""
    _, shape = ARCHITECTURES[name]
    module = gated(original(name))
    shut_half(module, seed)
    randomize(module, shape, seed)
    return module


def with_one_unit_back(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a gated graph in which one shut unit is open again: the negative control."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for gate in gates_of(other).values():
            shut = np.flatnonzero(~gate.open().numpy())
            if shut.size:
                gate.mu[int(shut[0])] = 1.0
                return other
    raise AssertionError("no unit is shut")
