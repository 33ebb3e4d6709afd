"""The cost model against what is really cut; latencies are those of an injected model."""

import numpy as np
import pytest
import torch
from counted_networks import NETWORKS, counted, cut, keep_first, network
from networks import gated, traced
from torch import nn

import vibfx
from vibfx.costs import COUNTED, CostModel
from vibfx.planning import cover


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_is_that_of_the_graph_really_cut(name):
    graph = network(name)
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    full = np.ones(coupling.units, dtype=bool)
    assert {kind: costs.cost(kind, full) for kind in COUNTED} == counted(vibfx.measure(graph))
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
    for kind in COUNTED:
        cost = CostModel(graph, plain).cost(kind, keep)
        assert CostModel(with_gates, coupled).cost(kind, keep) == cost


@pytest.mark.parametrize("kind", COUNTED)
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


def test_shares_are_of_what_is_left_and_of_nothing_there_are_none():
    graph = network("lenet")
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    keep = keep_first(coupling, _0=3, _2=10, _5=14)
    expected = costs.unit_costs("params", keep) / costs.cost("params", keep)
    np.testing.assert_array_equal(costs.unit_shares("params", keep), expected)
    nothing = np.zeros(coupling.units, dtype=bool)
    assert costs.cost("flops", nothing) == 0
    assert np.isfinite(costs.unit_shares("flops", nothing)).all()


def test_each_unit_has_its_share_of_the_flops_of_the_whole_network():
    graph = traced(nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)).eval(), (6,))
    np.testing.assert_allclose(CostModel(graph, vibfx.analyze(graph)).flops_shares(), 1 / 40)
    graph = traced(nn.ReLU(), (6,))
    assert CostModel(graph, vibfx.analyze(graph)).flops_shares().sum() == 0.0


def test_beside_flops_each_result_counts_as_fifty_of_them():
    graph = network("lenet")
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    keep = keep_first(coupling, _0=3, _2=10, _5=14)
    whole = costs.cost("flops", keep) + 50 * (3 * 576 + 10 * 64 + 14 + 10)
    found = costs.unit_shares("flops", keep) * whole - costs.unit_costs("flops", keep)
    for group, results in zip(coupling.groups, (576, 64, 1), strict=True):
        np.testing.assert_allclose(found[group.units], 50 * results)


@pytest.mark.parametrize(
    ("layer", "shape", "results"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 8, 8), 4 * 64 + 6 * 16),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 3), 4 * 9 + 6 * 36),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 3, 3), 4 * 9 + 6 * 36),
        (nn.Linear(4, 6), (5, 4), 4 * 5 + 6 * 5),
    ],
)
def test_the_results_are_those_of_the_layers(layer, shape, results):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4) if isinstance(layer, nn.Linear) else nn.Conv2d(4, 4, 1)
            self.layer = layer

        def forward(self, x):
            return torch.relu(self.layer(torch.relu(self.first(x)))).flatten(1).sum(1)

    graph = traced(Net(), shape)
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    full = np.ones(coupling.units, dtype=bool)
    # With fewer than a hundred of them a result, each counts as two hundred.
    whole = costs.cost("flops", full) + 200 * results
    found = costs.unit_shares("flops", full) * whole - costs.unit_costs("flops", full)
    assert found.sum() == pytest.approx(200 * results)


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


# --- latency


class Latency:
    """Units cost 1, 2, 3 and so on, above 10 for all together."""

    def cost(self, keep):
        return 10.0 + float((1 + np.flatnonzero(keep)).sum())

    def unit_costs(self, keep):
        return 1.0 + np.arange(keep.size)


def test_the_latency_is_modelled_once_and_only_when_it_is_asked_for():
    graph = network("lenet")
    coupling = vibfx.analyze(graph)
    made = []
    costs = CostModel(graph, coupling, latency=lambda: made.append(1) or Latency())
    keep = np.zeros(coupling.units, dtype=bool)
    costs.cost("flops", keep)
    costs.unit_costs("params", keep)
    assert not made
    keep[:3] = True
    assert costs.cost("latency", keep) == 16.0
    assert costs.unit_costs("latency", keep)[4] == 5.0
    assert made == [1]
