"""Images of other sizes: what a graph takes is tried, not guessed."""

import pytest
import torch
from networks import gated, shut_half, traced
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.any_size import agree_on_other_sizes, export_for_any_size, takes_any_size
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels


def pooled():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


class Resized(nn.Module):
    """Comes back to the size of its input, or to one that it was written with."""

    def __init__(self, size=None):
        super().__init__()
        self.conv, self.head, self.size = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 2, 1), size

    def forward(self, x):
        y = self.head(torch.relu(self.conv(x)))
        return F.interpolate(y, size=self.size or x.shape[-2:])


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 100, 3))


@pytest.mark.parametrize(
    ("model", "shape", "takes"),
    [
        (pooled(), (3, 12, 12), True),
        (Resized(9).eval(), (3, 12, 12), True),
        (Resized().eval(), (3, 12, 12), False),  # the graph goes back to 12, the model to others
        (Flat().eval(), (3, 12, 12), False),
        (nn.Linear(5, 3).eval(), (5,), False),
        (nn.Conv1d(3, 4, 3).eval(), (3, 9), False),
    ],
)
def test_it_is_seen_which_graphs_do(model, shape, takes):
    assert takes_any_size(model, traced(model, shape)) == takes


def cut(model, shape):
    module = gated(to_dtype(traced(model, shape), torch.float64))
    shut_half(module)
    small = FoldGates()(PruneChannels(vibfx.plan(module))(module).graph_module).graph_module
    return module, small


def test_a_cut_graph_still_does(tmp_path):
    module, small = cut(pooled(), (3, 12, 12))
    assert agree_on_other_sizes(module, small)
    to_dtype(small, torch.float32)
    assert export_for_any_size(small, tmp_path / "model.onnx", metadata={}).any_size


def test_another_graph_does_not_agree():
    module, _ = cut(pooled(), (3, 12, 12))
    other, _ = cut(Resized().eval(), (3, 12, 12))
    assert not agree_on_other_sizes(module, other)


def test_where_onnx_cannot_the_file_takes_one_size(tmp_path):
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    model = nn.Sequential(*layers).eval()
    module = traced(model, (3, 12, 12))
    assert takes_any_size(model, module)
    found = export_for_any_size(module, tmp_path / "model.onnx", metadata={"target": "x"})
    assert not found.any_size
    assert found.path.exists()
