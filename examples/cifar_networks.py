"""Networks for CIFAR: ResNet-20, with the reading of a checkpoint of it, and VGG-16."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What the channels of its training images were normalised with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions beside a shortcut that has no parameters."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        stride = 1 if width_in == width else 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self._stride, self._more = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width_in, H, W] -> [N, width, H / stride, W / stride]``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self._more:  # option A: every other pixel, and channels of zeros on both sides
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._more, self._more))
        return torch.relu(y + x)


class ResNet20(nn.Module):
    """ResNet-20 as in He et al., *Deep residual learning* (arXiv 1512.03385), section 4.2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32] -> [N, 10]``."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20(weights: str | Path) -> nn.Module:
    """The network with the weights of a checkpoint, also one of a ``DataParallel`` of it."""
    found = torch.load(weights, map_location="cpu", weights_only=True)
    model = ResNet20()
    model.load_state_dict(
        {name.removeprefix("module."): value for name, value in found["state_dict"].items()}
    )
    return model.eval()


def vgg(convs: tuple[int, ...], hidden: int, classes: int) -> nn.Sequential:
    """VGG for 32 x 32 pixels, with batch norm: 64, 128, 256, 512, 512 channels in five stages.

    Args:
        convs: How many convolutions each stage has.
        hidden: How many hidden layers of 512 follow.
        classes: How many classes there are.
    """
    layers: list[nn.Module] = []
    inner = 3
    for count, width in zip(convs, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(inner, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            inner = width
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten()]
    for _ in range(hidden):
        layers += [nn.Linear(inner, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(inner, classes))
