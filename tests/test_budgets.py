"""Targets, the controller of the prices, and the landing on a budget."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from couplings import Net
from networks import Residual, lenet, traced
from torch import nn

import vibfx
from vibfx.budgets import (
    Budget,
    Controller,
    cheapest,
    check_reachable,
    exchanged,
    land,
    parse_target,
)
from vibfx.costs import COUNTED, CostModel
from vibfx.errors import TargetError
from vibfx.planning import cover
from vibfx.weighting import Weighting

# --- targets


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("flops=0.5", (Budget("flops", 0.5),)),
        ("params=0.125", (Budget("params", 0.125),)),
        ("latency=0.5", (Budget("latency", 0.5),)),
        ("flops=0.3,params=0.1", (Budget("flops", 0.3), Budget("params", 0.1))),
        (" params=1e-2 , flops=.9 ", (Budget("params", 0.01), Budget("flops", 0.9))),
    ],
)
def test_targets_that_can_be_read(text, budgets):
    assert parse_target(text) == budgets
    assert parse_target(",".join(map(str, budgets))) == budgets


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("flops", "flops"),
        ("flops=", "flops="),
        ("flops=half", "flops=half"),
        ("flops=0", "flops=0"),
        ("flops=1", "flops=1"),
        ("flops=-0.5", "flops=-0.5"),
        ("flops=50%", "flops=50%"),
        ("flops=nan", "flops=nan"),
        ("flops=inf", "flops=inf"),
        ("energy=0.5", "energy=0.5"),
        ("0.5", "0.5"),
        ("flops=0.5,", ""),
        ("flops=0.5;params=0.1", "flops=0.5;params=0.1"),
    ],
)
def test_what_is_no_target_is_named_with_the_form_to_write(text, part):
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    assert caught.value.what == f"{part!r} is not a target"
    assert "flops=SHARE, params=SHARE or latency=SHARE" in caught.value.hint


def test_a_cost_named_twice_is_refused():
    with pytest.raises(TargetError, match="names one cost twice"):
        parse_target("flops=0.5,flops=0.4")


# --- on LeNet-5


@pytest.fixture(scope="module")
def network():
    graph = traced(lenet(), (1, 28, 28))
    coupling = vibfx.analyze(graph)
    return coupling, CostModel(graph, coupling)


@pytest.mark.parametrize("kind", COUNTED)
def test_what_cannot_be_reached_is_refused_and_the_least_named_can_be(network, kind):
    coupling, costs = network
    with pytest.raises(TargetError, match=f"{kind}=0.0001 cannot be reached") as caught:
        check_reachable((Budget(kind, 0.0001),), coupling, costs)
    (named,) = re.findall(rf"{kind}=([\d.]+)\.$", caught.value.hint)
    least = {"flops": 25 * 576 + 25 * 64 + 16 + 10, "params": 26 + 26 + 17 + 20}[kind]
    full = {"flops": 2_293_000, "params": 431_080}[kind]
    assert float(named) == math.ceil(1000 * least / full) / 1000
    check_reachable((Budget(kind, float(named)),), coupling, costs)


def test_every_budget_is_checked(network):
    coupling, costs = network
    check_reachable((Budget("flops", 0.5), Budget("params", 0.5)), coupling, costs)
    with pytest.raises(TargetError, match=r"params=1e-05"):
        check_reachable((Budget("flops", 0.5), Budget("params", 0.00001)), coupling, costs)


# --- the controller


class Costs:
    """FLOPs: units cost 1, 2, 3, 4. Parameters: 1 each."""

    def __init__(self):
        self.of = {"flops": np.array([1.0, 2.0, 3.0, 4.0]), "params": np.ones(4)}

    def cost(self, kind, keep):
        return float(self.of[kind][keep].sum())

    def unit_costs(self, kind, keep):
        return self.of[kind].copy()


def no_shares(kind, keep):
    """Where no price is asked for."""
    raise NotImplementedError


ALL = np.ones(4, dtype=bool)
ONE = np.array([True, False, False, False])


def controller(text="flops=0.5", updates=10):
    costs = Costs()

    def shares(kind, keep):
        return costs.unit_costs(kind, keep) / costs.cost(kind, keep)

    return Controller(parse_target(text), costs, 4, shares=shares, updates=updates, start=0.05)


def test_a_price_is_the_multiplier_times_the_share_of_the_cost_that_goes():
    # Half way down a path to 0.5: the error is log(2) / 2, of which half would be a step of 0.173.
    prices = controller(updates=2).update(ALL)
    multiplier = 0.05 * math.exp(0.15)
    assert prices == pytest.approx(multiplier * np.array([0.1, 0.2, 0.3, 0.4]), rel=1e-12)


def test_gates_whose_price_is_what_they_cost_are_worth_the_same():
    # Prices are 0.05 times the shares of the cost; a unit uses twice its share of half the cost.
    assert controller().worth(ALL) == pytest.approx(np.full(4, 0.05 / 2), rel=1e-12)


def test_gates_of_one_price_are_worth_more_where_they_cost_less():
    costs = Costs()
    even = Controller(
        parse_target("flops=0.5"), costs, 4, shares=lambda kind, keep: np.ones(4), updates=1,
        start=0.05,
    )  # fmt: skip
    assert even.worth(ALL) == pytest.approx(0.05 * 5 / np.array([1, 2, 3, 4]), rel=1e-12)


def test_what_was_measured_corrects_what_is_counted():
    one = controller("flops=0.5,params=0.5")
    assert one.used(ONE) == 0.5  # of the parameters a quarter of the whole
    one.correct(ALL, {"flops": 9.0})
    assert one.shares(ALL) == {"flops": 0.9, "params": 1.0}
    assert one.shares(ONE)["flops"] == pytest.approx(0.0)
    one.correct(ONE, {"flops": 1.0, "params": 2.0})
    assert one.shares(ONE) == {"flops": 0.1, "params": 0.5}
    assert one.used(ONE) == 1.0


def test_a_small_error_makes_a_step_of_half_its_size():
    prices = controller(updates=20).update(ALL)  # the path takes 12 of them
    multiplier = 0.05 * math.exp(0.5 * math.log(2) / 12)
    assert prices.sum() == pytest.approx(multiplier, rel=1e-12)


def test_prices_rise_while_the_cost_is_above_its_path_and_fall_below_it():
    moved = controller(updates=10)
    rising = [moved.update(ALL).sum() for _ in range(12)]
    assert all(b > a for a, b in itertools.pairwise(rising))
    # One unit left: its share of the cost is the whole, so the sum over all is ten multipliers.
    falling = [moved.update(ONE).sum() / 10 for _ in range(12)]
    ratios = [b / a for a, b in itertools.pairwise([rising[-1], *falling])]
    assert ratios == pytest.approx([math.exp(-0.15)] * 12, rel=1e-9)


def test_the_path_is_no_steeper_than_planned_and_ends_at_the_budget():
    on_path = controller("flops=0.125", updates=5)  # the path takes three of them
    half = np.array([True, False, False, True])  # half of the cost: on the path after one update
    assert on_path.update(half).sum() == pytest.approx(0.05 * 2, rel=1e-12)
    for _ in range(3):  # from now on half is too much
        prices = on_path.update(half).sum()
    assert prices == pytest.approx(0.05 * 2 * math.exp(3 * 0.15), rel=1e-12)


def test_what_has_to_keep_up_starts_late_and_ends_at_the_budget():
    late, keeps_up = controller("flops=0.25", updates=6), []
    half = np.array([True, False, False, True])
    for _ in range(6):
        late.update(ALL)
        keeps_up.append((late.keeps_up(ALL), late.keeps_up(half), late.keeps_up(ONE)))
    # From the second update on it falls: to a half with the fourth, to a quarter with the last.
    assert (
        keeps_up
        == [(True, True, True)] * 2 + [(False, True, True)] * 2 + [(False, False, True)] * 2
    )


def test_the_prices_of_two_budgets_add_up():
    both = controller("flops=0.5,params=0.9", updates=10).update(ALL)
    flops, params = (controller(t, updates=10).update(ALL) for t in ("flops=0.5", "params=0.9"))
    assert both == pytest.approx(flops + params, rel=1e-12)
    assert flops[3] / flops[0] == pytest.approx(4.0)
    assert params[3] == params[0]


def test_met_means_within_every_budget():
    both = controller("flops=0.5,params=0.5")
    cheap, dear, three = ([0, 1], [2, 3], [0, 1, 2])
    met = {tuple(units): both.met(np.isin(np.arange(4), units)) for units in (cheap, dear, three)}
    assert met == {(0, 1): True, (2, 3): False, (0, 1, 2): False}
    assert both.shares(ONE) == {"flops": 0.1, "params": 0.25}
    assert controller("flops=0.1").met(ONE)  # a budget that is met exactly is met


# --- landing


def landing(network, text, keep, scores):
    coupling, costs = network
    budgets = parse_target(text)
    within = Controller(budgets, costs, coupling.units, shares=no_shares, updates=1, start=0.05).met
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
def test_from_below_the_best_units_come_back_until_no_more_fits(network, text, seed):
    coupling, _ = network
    scores = random_scores(coupling, seed)
    best = {group.start + int(np.argmax(scores[group.units])) for group in coupling.groups}
    start = np.isin(np.arange(coupling.units), list(best))
    landed, within = landing(network, text, start, scores)

    assert within(start)
    assert (landed | ~start).all()  # nothing that was open was shut
    assert landed.sum() > start.sum()
    assert not landed[np.isneginf(scores)].any()
    check_landed(coupling, landed, within, scores)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", TARGETS)
def test_from_above_the_worst_units_go_and_no_more_of_them_than_needed(network, text, seed):
    coupling, _ = network
    scores = np.random.default_rng(seed).normal(size=coupling.units)
    start = np.ones(coupling.units, dtype=bool)
    landed, within = landing(network, text, start, scores)

    assert not within(start)
    check_landed(coupling, landed, within, scores)


@pytest.mark.parametrize("start", [False, True])
def test_what_a_large_unit_leaves_of_the_budget_smaller_ones_use_up(network, start):
    coupling, costs = network
    scores = np.random.default_rng(0).normal(size=coupling.units)
    scores[coupling.groups[2].units] -= 20.0  # the units of the linear layer, which cost least
    landed, _ = landing(network, "flops=0.5", np.full(coupling.units, start), scores)
    full = costs.cost("flops", np.ones(coupling.units, dtype=bool))
    assert 0.5 - 0.001 < costs.cost("flops", landed) / full <= 0.5


def test_a_layer_keeps_its_best_unit(network):
    coupling, costs = network
    scores = np.zeros(coupling.units)
    conv2 = coupling.groups[1]
    scores[conv2.units] = np.linspace(-9.0, -5.0, conv2.size)  # all lower than everything else
    scores += np.random.default_rng(0).uniform(0.0, 0.01, coupling.units)
    landed, within = landing(network, "flops=0.05", np.ones(coupling.units, bool), scores)
    assert within(landed)
    assert np.flatnonzero(landed[conv2.units]).tolist() == [conv2.size - 1]
    least = cover(coupling, np.zeros(coupling.units, dtype=bool))
    assert costs.cost("flops", landed) > costs.cost("flops", least)


def test_a_layer_that_is_wholly_shut_gets_its_best_unit_back(network):
    coupling, _ = network
    scores = np.full(coupling.units, -np.inf)
    scores[7] = -30.0
    landed, within = landing(network, "flops=0.01", np.zeros(coupling.units, dtype=bool), scores)
    assert within(landed)
    assert [int(landed[group.units].sum()) for group in coupling.groups] == [1, 1, 1]
    assert landed[7]


def test_what_is_handed_in_stays_as_it_is(network):
    coupling, _ = network
    scores = random_scores(coupling, 5)
    for value in (True, False):
        start = np.full(coupling.units, value)
        landing(network, "flops=0.5", start, scores)
        assert (start == value).all()


# --- where whole groups may go


def side_by_side():
    """Two branches of different cost, each of which may go, but not both."""

    def forward(net, x):
        return net.head(torch.cat([torch.relu(net.wide(x)), torch.relu(net.narrow(x))], 1))

    net = Net(forward, wide=nn.Linear(12, 6), narrow=nn.Linear(3, 6), head=nn.Linear(12, 2))
    net.narrow = nn.Sequential(nn.Unflatten(1, (3, 4)), nn.AvgPool1d(4), nn.Flatten(), net.narrow)
    graph = traced(net, (12,))
    coupling = vibfx.analyze(graph)
    return coupling, CostModel(graph, coupling)


def test_of_branches_that_may_not_all_go_one_counts_for_what_is_reachable():
    coupling, costs = side_by_side()
    least = cheapest("flops", coupling, costs)
    assert least.sum() == 1
    share = costs.cost("flops", least) / costs.cost("flops", np.ones(coupling.units, dtype=bool))
    check_reachable(parse_target(f"flops={share + 1e-6}"), coupling, costs)
    with pytest.raises(TargetError, match="cannot be reached"):
        check_reachable(parse_target(f"flops={share - 1e-6}"), coupling, costs)


def test_where_the_best_branch_is_too_large_another_one_stays():
    coupling, costs = side_by_side()
    (wide,) = (group.units for group in coupling.groups if group.name == "wide")
    (narrow,) = (group.units for group in coupling.groups if group.name != "wide")
    scores = np.zeros(coupling.units)
    scores[wide] = 1.0
    landed, within = landing((coupling, costs), "flops=0.05", np.zeros(scores.size, bool), scores)
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
    network, can_open, widths
):
    coupling, _ = network
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


def test_the_controller_prices_a_network_without_its_blocks():
    graph = traced(Residual(4), (1, 8, 8))
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    shares = Weighting("cost", coupling, costs).shares
    budgets = parse_target("flops=0.5")
    controller = Controller(budgets, costs, coupling.units, shares=shares, updates=3, start=0.05)
    prices = controller.update(cover(coupling, np.zeros(coupling.units, dtype=bool)))
    assert np.isfinite(prices).all()
    assert (prices >= 0).all()
