"""Small networks for MNIST: the two LeNets, a VGG, and a residual network of two kinds."""

import torch
from torch import Tensor, nn


def lenet5() -> nn.Module:
    """LeNet-5 as Caffe has it (20-50-500): 430,500 weights, 2.29 million multiply-accumulates."""
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


class Block(nn.Module):
    """Two convolutions beside a shortcut: a projection where the width changes."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        elif stride > 1:
            self.shortcut = nn.AvgPool2d(stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width_in, H, W] -> [N, width, H / stride, W / stride]``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Residual(nn.Module):
    """A stem at half resolution and three blocks; the widths say whether there are projections."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = widths
        self.conv = nn.Conv2d(1, first, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.block1 = Block(first, first)
        self.block2 = Block(first, second, stride=2)
        self.block3 = Block(second, third)
        self.head = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, 28, 28] -> [N, 10]``."""
        x = torch.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.head(x.mean((2, 3)))


def residual() -> nn.Module:
    """One width throughout, so that every shortcut is plain and one group spans all blocks."""
    return Residual((24, 24, 24))


def residual_projection() -> nn.Module:
    """The width doubles, so that one shortcut is a convolution with batch norm."""
    return Residual((16, 32, 32))


def vgg() -> nn.Module:
    """Convolutions in pairs and a hidden layer on the flattened map: 870,176 weights."""
    layers: list[nn.Module] = []
    for width_in, width in ((1, 32), (32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(width_in, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width_in == width else []
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def lenet_300_100() -> nn.Module:
    """784-300-100-10: 266,200 weights."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


NETWORKS = {
    "lenet-300-100": lenet_300_100,
    "lenet5": lenet5,
    "residual": residual,
    "residual-projection": residual_projection,
    "vgg": vgg,
}
