"""Counts against hand-computed ones, and the cost model against what is really cut."""

import numpy as np
import pytest
import torch
from networks import Residual, gated, lenet, traced
from torch import nn

import vibfx
from vibfx.metrics import COSTS, CostModel, Measures, shares
from vibfx.passes import PruneChannels
from vibfx.planning import cover, plan_units


class Shared(nn.Module):
    """A linear that is used twice, on sequences of five vectors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.mix(torch.relu(self.mix(x)))))


def grouped():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


NETWORKS = {
    "lenet": (lenet, (1, 28, 28)),
    "residual": (lambda: Residual(4), (1, 8, 8)),
    "identity": (lambda: Residual(4, projection=False), (1, 8, 8)),
    "grouped": (grouped, (4, 6, 6)),
    "shared": (Shared, (5, 6)),
}


def network(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    return traced(build().eval(), shape)


@pytest.fixture(scope="module")
def lenet_graph():
    return network("lenet")


def keep_first(coupling, **widths):
    """Keep the first units of each group: ``_0=3`` keeps three of the group named 0."""
    keep = np.zeros(coupling.units, dtype=bool)
    for group in coupling.groups:
        keep[group.start : group.start + widths[f"_{group.name}"]] = True
    return keep


def cut(graph, coupling, keep):
    return PruneChannels(plan_units(graph, coupling, keep))(graph).graph_module


# --- measure


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


# --- the cost model


def counted(measures):
    return {"flops": measures.flops, "params": measures.parameters}


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_is_that_of_the_graph_really_cut(name):
    graph = network(name)
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    full = np.ones(coupling.units, dtype=bool)
    assert {kind: costs.cost(kind, full) for kind in COSTS} == counted(vibfx.measure(graph))
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.5, 0.9):
        keep = cover(coupling, rng.random(coupling.units) < share)
        after = counted(vibfx.measure(cut(graph, coupling, keep)))
        assert costs.cost("flops", keep) == after["flops"]
        if all(keep[group.units].any() for group in coupling.groups):
            assert costs.cost("params", keep) == after["params"]
        else:  # norms behind an emptied block are counted in full; a constant is left of them
            assert costs.cost("params", keep) >= after["params"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_gated_graph_costs_the_same(name):
    graph = network(name)
    with_gates = gated(graph)
    plain, coupled = vibfx.analyze(graph), vibfx.analyze(with_gates)
    assert plain.units == coupled.units
    keep = np.random.default_rng(1).random(plain.units) < 0.5
    for kind in COSTS:
        cost = CostModel(graph, plain).cost(kind, keep)
        assert CostModel(with_gates, coupled).cost(kind, keep) == cost


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("name", ["lenet", "grouped"])
def test_unit_costs_are_the_differences_that_single_units_make(name, kind):
    graph = network(name)
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    keep = cover(coupling, np.random.default_rng(2).random(coupling.units) < 0.7)
    found = costs.unit_costs(kind, keep)
    assert found.shape == (coupling.units,)
    for unit in np.flatnonzero(keep)[::7]:
        without = keep.copy()
        without[unit] = False
        difference = costs.cost(kind, keep) - costs.cost(kind, without)
        assert difference > 0
        assert found[unit] == pytest.approx(difference, rel=1e-12)


def test_unit_costs_by_hand():
    graph = network("lenet")
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    keep = keep_first(coupling, _0=3, _2=10, _5=14)
    for kind, expected in {
        "flops": {"0": 25 * 576 + 10 * 25 * 64, "2": 3 * 25 * 64 + 16 * 14, "5": 160 + 10},
        "params": {"0": 25 + 1 + 10 * 25, "2": 3 * 25 + 1 + 16 * 14, "5": 160 + 1 + 10},
    }.items():
        found = costs.unit_costs(kind, keep)
        for group in coupling.groups:
            assert found[group.start] == expected[group.name]


def test_a_unit_on_both_sides_of_a_weight_counts_for_both_to_first_order():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 4, bias=False)
            self.loop = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 2, bias=False)

        def forward(self, x):
            x = self.stem(x)
            return self.head(torch.relu(x + self.loop(x)))

    graph = traced(Loop(), (3,))
    coupling = vibfx.analyze(graph)
    assert [group.size for group in coupling.groups] == [4]
    costs = CostModel(graph, coupling)
    keep = np.array([True, True, True, False])
    assert costs.cost("params", keep) == 3 * 3 + 3 * 3 + 2 * 3
    assert costs.unit_costs("params", keep)[0] == 3 + (3 + 3) + 2  # one more than the difference
