"""Counts against hand-computed ones."""

import numpy as np
import pytest
import torch
from counted_networks import NETWORKS, cut, keep_first, network
from networks import gated, lenet, traced
from torch import nn

import vibfx
from vibfx.costs import CostModel
from vibfx.metrics import Measures, shares
from vibfx.passes import PruneChannels, SelectInputs
from vibfx.planning import plan_units


@pytest.fixture(scope="module")
def lenet_graph():
    return network("lenet")


# --- measure


def test_selected_features_of_an_input_count_in_place_of_its_flattening():
    """LeNet-300-100 at the paper's 97-71-33 has 16.98 % of its features."""
    torch.manual_seed(0)
    layers = nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    graph = traced(nn.Sequential(nn.Flatten(), *layers), (1, 28, 28))
    selected = SelectInputs()(graph).graph_module
    coupling = vibfx.analyze(selected)
    keep = np.zeros(coupling.units, dtype=bool)
    for group, count in zip(coupling.groups, (97, 71, 33), strict=True):
        keep[group.start : group.start + count] = True
    after = vibfx.measure(cut(selected, coupling, keep))
    assert after.features == 97 + 71 + 33
    assert round(100 * shares(vibfx.measure(graph), after).r_n, 2) == 16.98


def test_lenet_5_as_counted_by_hand(lenet_graph):
    found = vibfx.measure(lenet_graph)
    assert found.weights == 430_500
    assert found.parameters == 430_500 + 20 + 50 + 500 + 10
    assert found.flops == 2_293_000
    assert found.features == 19_700  # 11,520 + 2,880 + 3,200 + 800 + 800 + 500
    assert [(m.name, m.shape, m.uses, m.flops) for m in found.layers] == [
        ("0", (20, 1, 5, 5), 576, 288_000),
        ("2", (50, 20, 5, 5), 64, 1_600_000),
        ("5", (500, 800), 1, 400_000),
        ("7", (10, 500), 1, 5_000),
    ]


def test_lenet_5_cut_to_3_10_14(lenet_graph):
    coupling = vibfx.analyze(lenet_graph)
    small = cut(lenet_graph, coupling, keep_first(coupling, _0=3, _2=10, _5=14))
    after = vibfx.measure(small)
    assert after.weights == 75 + 750 + 2_240 + 140
    assert after.flops == 93_580
    assert after.features == 3 * 720 + 10 * 80 + 160 + 14
    left = shares(vibfx.measure(lenet_graph), after)
    assert left.r_w == pytest.approx(3_205 / 430_500, rel=1e-12)
    assert round(100 * left.r_w, 3) == 0.744
    assert round(100 * left.r_n, 2) == 15.91
    assert left.flops == pytest.approx(93_580 / 2_293_000, rel=1e-12)
    assert left.params == pytest.approx((3_205 + 3 + 10 + 14 + 10) / 431_080, rel=1e-12)


def test_grouped_and_depthwise_convolutions():
    found = vibfx.measure(network("grouped"))
    assert [layer.weights for layer in found.layers] == [288, 12 * 4 * 9, 12 * 9, 36]
    assert found.weights == 288 + 432 + 108 + 36
    assert found.parameters == found.weights + 8 + 12 + 3
    assert found.flops == 36 * (288 + 432 + 108) + 36
    assert found.features == 36 * (8 + 12 + 12) + 12 + 12  # the pool and the flattening of it


def test_strides_and_one_dimension():
    model = nn.Sequential(nn.Conv1d(2, 3, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))
    found = vibfx.measure(traced(model, (2, 12)))
    assert [(m.weights, m.uses) for m in found.layers] == [(30, 3), (18, 1)]
    assert found.flops == 30 * 3 + 18
    assert found.features == 9 + 9


def test_a_layer_used_twice_has_its_weights_once_and_its_flops_twice():
    found = vibfx.measure(network("shared"))
    assert [layer.name for layer in found.layers] == ["stem", "mix", "mix", "head"]
    assert found.weights == 36 + 36 + 12
    assert found.parameters == 42 + 42 + 12
    assert found.flops == 5 * (36 + 36 + 36 + 12)
    assert found.features == 5 * (6 + 6 + 6)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_recurrent_layers_use_each_weight_once_a_step():
    graph = traced(Recurrent(), (7, 4))
    found = vibfx.measure(graph)
    assert found.flops == 7 * 2 * 24 * (4 + 6) + 24
    assert found.weights == 2 * 24 * (4 + 6) + 24
    assert vibfx.measure(gated(graph)) == found
    names = [layer.name for layer in found.layers]
    assert names[:2] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    coupling = vibfx.analyze(graph)
    keep = np.arange(coupling.units) % 2 == 0
    small = PruneChannels(plan_units(graph, coupling, keep))(graph).graph_module
    cost = CostModel(graph, coupling).cost("flops", keep)
    assert (
        vibfx.measure(small).flops
        == cost
        == found.flops - 7 * (2 * 24 * (4 + 6) - 2 * 12 * (4 + 3)) - 12
    )


def test_the_traced_batch_does_not_matter():
    model = lenet()
    two, five = (vibfx.trace(model, torch.zeros(n, 1, 28, 28)) for n in (2, 5))
    assert vibfx.measure(two) == vibfx.measure(five)


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_not_counted(name):
    graph = network(name)
    assert vibfx.measure(gated(graph)) == vibfx.measure(graph)


def test_shares_are_quotients():
    before = Measures(parameters=100, weights=80, flops=1000.0, features=40.0, layers=())
    after = Measures(parameters=50, weights=20, flops=100.0, features=30.0, layers=())
    left = shares(before, after)
    assert (left.params, left.r_w, left.flops, left.r_n) == (0.5, 0.25, 0.1, 0.75)
