"""Layers of parameters, and what the dimensions of weights do."""

import pytest
from networks import traced
from torch import nn

from vibfx.metrics import measure
from vibfx.passes import SelectInputs
from vibfx.sides import owner, sides_of


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("conv1.weight", "conv1"),
        ("a.b.bias", "a.b"),
        ("bn.running_mean", "bn"),
        ("attention.in_proj_weight", "attention.in_proj"),
        ("attention.in_proj_bias", "attention.in_proj"),
        ("class_token", "class_token"),
        ("encoder.pos_embedding", "encoder.pos_embedding"),
        ("weight", "weight"),
        ("net.reweight", "net.reweight"),
    ],
)
def test_owner(parameter, layer):
    assert owner(parameter) == layer


def sides(model, *shape):
    graph = traced(model.eval(), shape)
    return sides_of(graph, [layer.weight for layer in measure(graph).layers])


def test_a_selection_of_inputs_makes_what_a_layer_reads():
    graph = SelectInputs()(traced(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (4,)))
    assert sides_of(graph.graph_module, ["0.weight"]) == {
        ("inputs.input_1", 0): ("makes",),
        ("0.weight", 0): ("makes",),
        ("0.weight", 1): ("reads",),
    }


def test_a_layer_makes_rows_and_reads_columns():
    found = sides(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.LayerNorm(3), nn.Linear(3, 2)), 4)
    assert found == {
        ("0.weight", 0): ("makes",),
        ("0.weight", 1): ("reads",),
        ("3.weight", 0): ("makes",),
        ("3.weight", 1): ("reads",),
    }


def test_a_depthwise_layer_does_both_and_one_channel_is_not_depthwise():
    depthwise = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=4))
    found = sides(depthwise, 1, 5, 5)
    assert found["0.weight", 0] == ("makes",)
    assert found["1.weight", 0] == ("makes", "reads")


def test_a_grouped_layer_makes_rows():
    assert sides(nn.Conv2d(4, 8, 1, groups=2), 4, 5, 5)["weight", 0] == ("makes",)
