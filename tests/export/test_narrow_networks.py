"""ONNX of a cut network is, node for node, that of the same network built narrow."""

from collections import Counter

import onnx
import pytest
import torch
from networks import gated, randomize, shut_half, traced
from torch import nn

import vibfx
from vibfx.export import export_onnx
from vibfx.passes import PruneChannels


def block(inner, outer, kernel=3, **options):
    conv = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False, **options)
    return conv, nn.BatchNorm2d(outer), nn.ReLU()


class Plain(nn.Sequential):
    """Convolutions with batch norms, a head on the flattened map."""

    full, named = (12, 16, 10), ("0", "3", "8")

    def __init__(self, a, b, c):
        convs = (*block(3, a), *block(a, b), nn.MaxPool2d(2))
        super().__init__(*convs, nn.Flatten(), nn.Linear(16 * b, c), nn.ReLU(), nn.Linear(c, 4))


class Residual(nn.Module):
    """A block beside a projection and one beside the identity, then the mean."""

    full, named = (12, 8, 10), ("stem.0", "first.0", "second.0")

    def __init__(self, a, b, c):
        super().__init__()
        self.stem = nn.Sequential(*block(3, a))
        self.first = nn.Sequential(*block(a, b), *block(b, a))
        self.second = nn.Sequential(*block(a, c), *block(c, a))
        self.head = nn.Linear(a, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.first(x))
        return self.head(torch.relu(x + self.second(x)).mean((2, 3)))


class Inverted(nn.Module):
    """A wide depthwise convolution between narrow ones, with squeeze and excitation."""

    full, named = (8, 24, 6), ("stem.0", "expand.0", "squeeze")

    def __init__(self, a, b, c):
        super().__init__()
        self.stem = nn.Sequential(*block(3, a))
        self.expand = nn.Sequential(*block(a, b, 1))
        self.depthwise = nn.Sequential(*block(b, b, groups=b))
        self.squeeze, self.excite = nn.Conv2d(b, c, 1), nn.Conv2d(c, b, 1)
        self.project, self.head = nn.Conv2d(b, a, 1, bias=False), nn.Linear(a, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        scale = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x + self.project(y * scale)).mean((2, 3)))


class Joined(nn.Module):
    """Two branches joined, as in DenseNet and Inception."""

    full, named = (12, 10, 14), ("stem", "one", "two")

    def __init__(self, a, b, c):
        super().__init__()
        self.stem = nn.Conv2d(3, a, 3)
        self.one, self.two = nn.Conv2d(a, b, 1), nn.Conv2d(a, c, 3, padding=1)
        self.head = nn.Linear(b + c, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        both = torch.cat([self.one(x).relu(), self.two(x).relu()], 1)
        return self.head(both.mean((2, 3)))


def nodes(module, folder):
    """The operators in their order, and the shapes of what they read."""
    graph = onnx.load(export_onnx(module, folder / "model.onnx").path).graph
    stored = Counter((tuple(t.dims), t.data_type) for t in graph.initializer)
    return [node.op_type for node in graph.node], stored


@pytest.mark.parametrize("kind", [Plain, Residual, Inverted, Joined])
def test_nothing_tells_that_it_was_cut(kind, tmp_path):
    torch.manual_seed(0)
    module = gated(traced(kind(*kind.full), (3, 8, 8)))
    shut_half(module)
    randomize(module, (3, 8, 8))
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    widths = {layer.name: layer.shape[0] for layer in vibfx.measure(small).layers}
    left = [widths[name] for name in kind.named]
    assert all(one < full for one, full in zip(left, kind.full, strict=True))
    narrow = traced(kind(*left), (3, 8, 8))
    randomize(narrow, (3, 8, 8))  # so that no two biases are equal, which would be stored once
    assert nodes(small, tmp_path) == nodes(narrow, tmp_path)
