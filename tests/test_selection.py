"""Units chosen by their scores so that budgets are just met."""

import numpy as np
import pytest
from networks import Residual, SideBySide, traced

import vibfx
from vibfx.budgets import cheapest, parse_target
from vibfx.costs import CostModel
from vibfx.planning import cover
from vibfx.selection import exchanged, land


def landing(network, text, keep, scores):
    coupling, costs = network
    budgets, every = parse_target(text), np.ones(coupling.units, dtype=bool)
    most = {b.kind: b.share * costs.cost(b.kind, every) for b in budgets}

    def within(keep):
        return all(costs.cost(kind, keep) <= limit for kind, limit in most.items())

    least = cheapest(budgets[0].kind, coupling, costs)
    return land(keep, scores, within, coupling, least), within


def random_scores(coupling, seed):
    """Normal ones, a tenth of them minus infinity."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=coupling.units)
    scores[rng.random(coupling.units) < 0.1] = -np.inf
    return scores


TARGETS = ["flops=0.5", "params=0.02", "flops=0.1,params=0.1"]


def check_landed(coupling, landed, within, scores):
    """Within the budgets; of each group the best units; and none of the rest could be added."""
    assert within(landed)
    left = {unit for group in coupling.groups for unit in best_left(group, landed, scores)}
    assert left
    for unit in left:
        more = landed.copy()
        more[unit] = True
        assert not within(more)


def best_left(group, landed, scores):
    units = np.arange(group.start, group.start + group.size)
    kept, left = units[landed[units]], units[~landed[units] & np.isfinite(scores[units])]
    if not left.size:
        return []
    assert kept.size == 1 or scores[kept].min() > scores[left].max()
    return [left[np.argmax(scores[left])]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", TARGETS)
def test_from_below_the_best_units_come_back_until_no_more_fits(lenet_costs, text, seed):
    coupling, _ = lenet_costs
    scores = random_scores(coupling, seed)
    best = {group.start + int(np.argmax(scores[group.units])) for group in coupling.groups}
    start = np.isin(np.arange(coupling.units), list(best))
    landed, within = landing(lenet_costs, text, start, scores)

    assert within(start)
    assert (landed | ~start).all()  # nothing that was open was shut
    assert landed.sum() > start.sum()
    assert not landed[np.isneginf(scores)].any()
    check_landed(coupling, landed, within, scores)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", TARGETS)
def test_from_above_the_worst_units_go_and_no_more_of_them_than_needed(lenet_costs, text, seed):
    coupling, _ = lenet_costs
    scores = np.random.default_rng(seed).normal(size=coupling.units)
    start = np.ones(coupling.units, dtype=bool)
    landed, within = landing(lenet_costs, text, start, scores)

    assert not within(start)
    check_landed(coupling, landed, within, scores)


@pytest.mark.parametrize("start", [False, True])
def test_what_a_large_unit_leaves_of_the_budget_smaller_ones_use_up(lenet_costs, start):
    coupling, costs = lenet_costs
    scores = np.random.default_rng(0).normal(size=coupling.units)
    scores[coupling.groups[2].units] -= 20.0  # the units of the linear layer, which cost least
    landed, _ = landing(lenet_costs, "flops=0.5", np.full(coupling.units, start), scores)
    full = costs.cost("flops", np.ones(coupling.units, dtype=bool))
    assert 0.5 - 0.001 < costs.cost("flops", landed) / full <= 0.5


def test_a_layer_keeps_its_best_unit(lenet_costs):
    coupling, costs = lenet_costs
    scores = np.zeros(coupling.units)
    conv2 = coupling.groups[1]
    scores[conv2.units] = np.linspace(-9.0, -5.0, conv2.size)  # all lower than everything else
    scores += np.random.default_rng(0).uniform(0.0, 0.01, coupling.units)
    landed, within = landing(lenet_costs, "flops=0.05", np.ones(coupling.units, bool), scores)
    assert within(landed)
    assert np.flatnonzero(landed[conv2.units]).tolist() == [conv2.size - 1]
    least = cover(coupling, np.zeros(coupling.units, dtype=bool))
    assert costs.cost("flops", landed) > costs.cost("flops", least)


def test_a_layer_that_is_wholly_shut_gets_its_best_unit_back(lenet_costs):
    coupling, _ = lenet_costs
    scores = np.full(coupling.units, -np.inf)
    scores[7] = -30.0
    landed, within = landing(
        lenet_costs, "flops=0.01", np.zeros(coupling.units, dtype=bool), scores
    )
    assert within(landed)
    assert [int(landed[group.units].sum()) for group in coupling.groups] == [1, 1, 1]
    assert landed[7]


def test_what_is_handed_in_stays_as_it_is(lenet_costs):
    coupling, _ = lenet_costs
    scores = random_scores(coupling, 5)
    for value in (True, False):
        start = np.full(coupling.units, value)
        landing(lenet_costs, "flops=0.5", start, scores)
        assert (start == value).all()


# --- where whole groups may go


def test_where_the_best_branch_is_too_large_another_one_stays():
    graph = traced(SideBySide(), (12,))
    coupling = vibfx.analyze(graph)
    (wide,) = (group.units for group in coupling.groups if group.name == "wide")
    (narrow,) = (group.units for group in coupling.groups if group.name != "wide")
    scores = np.zeros(coupling.units)
    scores[wide] = 1.0
    network, keep = (coupling, CostModel(graph, coupling)), np.zeros(scores.size, dtype=bool)
    landed, within = landing(network, "flops=0.05", keep, scores)
    assert within(landed)
    assert landed[narrow].sum() == 1
    assert not landed[wide].any()


@pytest.mark.parametrize("start", [False, True])
def test_landing_takes_whole_blocks_out_of_a_residual_network(start):
    graph = traced(Residual(4), (1, 8, 8))
    coupling = vibfx.analyze(graph)
    scores = np.random.default_rng(0).normal(size=coupling.units)
    for group in coupling.groups:
        scores[group.units] -= 10.0 * group.name.endswith("conv1")
    keep = np.full(coupling.units, start)
    landed, within = landing((coupling, CostModel(graph, coupling)), "flops=0.1", keep, scores)
    assert within(landed)
    left = {group.name: int(landed[group.units].sum()) for group in coupling.groups}
    assert left["block1.conv1"] == left["block2.conv1"] == 0
    assert left["stem.0"] > 0
    assert left["block2.conv2"] > 0


@pytest.mark.parametrize(("can_open", "widths"), [(True, (3, 2)), (False, (2, 5))])
def test_a_large_unit_takes_the_place_of_small_ones_where_that_uses_more_up(
    lenet_costs, can_open, widths
):
    coupling, _ = lenet_costs
    large, small = coupling.groups[0], coupling.groups[1]
    costs, keep = np.zeros(coupling.units), np.ones(coupling.units, dtype=bool)
    costs[large.units], costs[small.units] = 0.3, 0.04
    keep[large.start + 2 : large.start + large.size] = False
    keep[small.start + 5 : small.start + small.size] = False
    scores = np.where(keep, 5.0, -np.inf) - np.arange(coupling.units) / 1e4
    scores[large.start + 7] = -1.0 if can_open else -np.inf
    scores[large.start] = 0.1  # the worst, but of the same group

    def used(asked):
        return float(costs[asked].sum())

    found = exchanged(keep, scores, lambda k: used(k) <= 1.0, used, coupling)
    assert (int(found[large.units].sum()), int(found[small.units].sum())) == widths
    assert found[large.start + 7] == can_open
    assert found[small.start : small.start + widths[1]].all()  # the best ones stay
    assert used(found) == pytest.approx(0.98 if can_open else 0.8)
