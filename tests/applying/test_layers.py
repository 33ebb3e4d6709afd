import pytest
import torch
from applied_networks import plan_keeping
from torch import Tensor, nn

import vibfx
from vibfx.applying.layers import attributes
from vibfx.applying.narrowing import Narrowing, calls_of
from vibfx.passes import PruneChannels


class Around(nn.Module):
    """A layer between two linear ones, over four positions."""

    def __init__(self, layer: nn.Module, width: int, made: int) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv1d(3, width, 1), layer, nn.Conv1d(made, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.layer(torch.relu(self.first(x)))))


def found(part, width, made=None, **kept):
    """The attributes that a layer gets by a plan."""
    model = Around(part, width, made or width)
    graph = vibfx.trace(model, torch.randn(2, 3, 4))
    plan = plan_keeping(graph, **kept)
    cut = PruneChannels(plan)(graph).graph_module
    Narrowing(plan, {}).apply(model)
    return attributes(model.layer, calls_of(model, cut).get(model.layer, []))


def test_a_convolution():
    assert found(nn.Conv1d(6, 8, 1), 6, 8, first=[0, 1], layer=[3, 4, 5]) == {
        "in_channels": 2,
        "out_channels": 3,
    }


def test_a_transposed_one():
    assert found(nn.ConvTranspose1d(6, 8, 1), 6, 8, first=[0, 5]) == {"in_channels": 2}


def test_a_depthwise_one_loses_groups():
    assert found(nn.Conv1d(6, 6, 1, groups=6), 6, first=[0, 2, 3]) == {
        "in_channels": 3,
        "out_channels": 3,
        "groups": 3,
    }


def test_a_grouped_one_that_keeps_its_groups():
    layer = nn.Conv1d(8, 8, 1, groups=2)
    assert found(layer, 8, first=[0, 2]) == {"in_channels": 4}


@pytest.mark.parametrize("affine", [True, False])
def test_norms_of_channels_with_and_without_tensors(affine):
    for norm in (nn.BatchNorm1d(6, affine=affine), nn.InstanceNorm1d(6, affine=affine)):
        assert found(norm, 6, first=[1, 2]) == {"num_features": 2}


def test_a_group_norm_loses_whole_groups():
    assert found(nn.GroupNorm(3, 6), 6, first=[0, 2]) == {"num_groups": 2, "num_channels": 4}


def test_a_prelu_with_a_slope_for_each_channel():
    assert found(nn.PReLU(6), 6, first=[1, 2]) == {"num_parameters": 2}
    assert found(nn.PReLU(), 6, first=[1, 2]) == {}


def test_layers_without_a_graph_say_what_their_tensors_do():
    bilinear = nn.Bilinear(3, 4, 5)
    bilinear.weight.data = torch.zeros(2, 3, 1)
    assert attributes(bilinear, []) == {"in2_features": 1, "out_features": 2}
    linear = nn.Linear(3, 4)
    assert attributes(linear, []) == {}
    linear.weight.data = torch.zeros(4, 1)
    assert attributes(linear, []) == {"in_features": 1}
    cell = nn.GRUCell(3, 4)
    cell.weight_hh.data = torch.zeros(6, 2)
    assert attributes(cell, []) == {"hidden_size": 2}


def test_layers_that_nothing_is_known_of_say_nothing():
    assert attributes(nn.ReLU(), []) == {}
    assert attributes(nn.Flatten(), []) == {}
