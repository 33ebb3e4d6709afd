"""Small graphs for the tests of single passes, and what a graph is at one moment."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from networks import gated, randomize, traced
from torch import Tensor, fx, nn
from torch.export import Dim

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.gates import gates_of

Snapshot = tuple[str, dict[str, Tensor], bool]


class Plain(nn.Module):
    """One convolution with batch norm, one linear: a single group."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Dense(nn.Module):
    """A block of a DenseNet: norms and activations in front, inputs concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 2, 3, padding=1)
        self.norm3, self.head = nn.BatchNorm2d(9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(torch.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(torch.relu(self.norm2(x)))], 1)
        return self.head(torch.relu(self.norm3(x)).mean((2, 3)))


class Calls(nn.Module):
    """A network whose forward is the given function of itself and the inputs."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def plain(channels: int = 4, seed: int = 0) -> fx.GraphModule:
    return copy_graph_module(_plain(channels, seed))


@functools.cache
def _plain(channels: int, seed: int) -> fx.GraphModule:
    torch.manual_seed(seed)
    return traced(Plain(channels), (1, 5, 5))


def dense() -> fx.GraphModule:
    """A gated ``Dense``; every gate open."""
    return copy_graph_module(_dense())


@functools.cache
def _dense() -> fx.GraphModule:
    return opened(Dense(), (1, 4, 4))


def layers(*modules: nn.Module, shape: tuple[int, ...], seed: int = 0) -> fx.GraphModule:
    """A chain of layers with random weights, biases and norms, gated; every gate open."""
    torch.manual_seed(seed)
    return opened(nn.Sequential(*modules), shape, seed)


def opened(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> fx.GraphModule:
    torch.manual_seed(seed)
    model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    module = gated(traced(model, shape))
    randomize(module, shape, seed)
    return module


def set_gate(module: fx.GraphModule, name: str, mu: Sequence[float]) -> None:
    with torch.no_grad():
        gates_of(module)[name].mu.copy_(torch.tensor(mu))


def exported(
    model: nn.Module, *inputs: Tensor, guards: bool = False, training: bool = False
) -> fx.GraphModule:
    """A graph as torch.export leaves it, before any clean-up."""
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
    program = torch.export.export(
        model.train(training), inputs, dynamic_shapes=shapes, strict=False
    )
    module = program.module(check_guards=guards)
    return fx.GraphModule(module, copy.deepcopy(module.graph))


def targets(module: fx.GraphModule) -> list[str]:
    """What each call of the graph calls."""
    return [str(n.target) for n in module.graph.nodes if n.op in ("call_function", "call_module")]


def snapshot(module: fx.GraphModule) -> Snapshot:
    values = {name: value.clone() for name, value in module.state_dict().items()}
    return vibfx.format_graph(module), values, module.training


def assert_same(before: Snapshot, after: Snapshot) -> None:
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    for name, value in before[1].items():
        assert torch.equal(value, after[1][name]), name
    assert before[2] == after[2]


def assert_shares_no_memory(a: nn.Module, b: nn.Module) -> None:
    own = {t.untyped_storage().data_ptr() for t in a.state_dict().values() if t.numel()}
    other = {t.untyped_storage().data_ptr() for t in b.state_dict().values() if t.numel()}
    assert own.isdisjoint(other)


def outputs(module: nn.Module, shape: tuple[int, ...], batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return module(torch.randn(batch, *shape, generator=generator))
