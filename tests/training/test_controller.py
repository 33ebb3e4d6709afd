"""The controller of the prices."""

import itertools
import math

import numpy as np
import pytest
from networks import Residual, traced

import vibfx
from vibfx.budgets import parse_target
from vibfx.costs import CostModel
from vibfx.planning import cover
from vibfx.training.controller import Controller
from vibfx.weighting import Weighting


class Costs:
    """FLOPs: units cost 1, 2, 3, 4. Parameters: 1 each."""

    def __init__(self):
        self.of = {"flops": np.array([1.0, 2.0, 3.0, 4.0]), "params": np.ones(4)}

    def cost(self, kind, keep):
        return float(self.of[kind][keep].sum())

    def unit_costs(self, kind, keep):
        return self.of[kind].copy()

    def unit_shares(self, kind, keep):
        return self.of[kind] / self.cost(kind, keep)


ALL = np.ones(4, dtype=bool)
ONE = np.array([True, False, False, False])


def controller(text="flops=0.5", updates=10):
    costs = Costs()
    return Controller(
        parse_target(text), costs, 4, shares=costs.unit_shares, updates=updates, start=0.05
    )


def test_a_price_is_the_multiplier_times_the_share_of_the_cost_that_goes():
    # Half way down a path to 0.5: the error is log(2) / 2, of which half would be a step of 0.173.
    prices = controller(updates=2).update(ALL)
    multiplier = 0.05 * math.exp(0.15)
    assert prices == pytest.approx(multiplier * np.array([0.1, 0.2, 0.3, 0.4]), rel=1e-12)


def test_gates_whose_price_is_what_they_cost_are_worth_the_same():
    # Prices are 0.05 times the shares of the cost; a unit uses twice its share of half the cost.
    assert controller().worth(ALL) == pytest.approx(np.full(4, 0.05 / 2), rel=1e-12)


def test_what_gates_pay_beside_the_cost_counts_as_used_as_well(lenet_costs):
    coupling, costs = lenet_costs  # the FLOPs' price is on the layers' results too
    every = np.ones(coupling.units, dtype=bool)
    paying = Controller(
        *(parse_target("flops=0.5"), costs, coupling.units), shares=costs.unit_shares, updates=1,
        start=0.05,
    )  # fmt: skip
    assert paying.worth(every) == pytest.approx(np.full(coupling.units, 0.05 / 2), rel=1e-12)


def test_gates_of_one_price_are_worth_more_where_they_cost_less():
    costs = Costs()
    even = Controller(
        parse_target("flops=0.5"), costs, 4, shares=lambda kind, keep: np.ones(4), updates=1,
        start=0.05,
    )  # fmt: skip
    assert even.worth(ALL) == pytest.approx(0.05 * 5 / np.array([1, 2, 3, 4]), rel=1e-12)


def test_what_was_measured_corrects_what_is_counted():
    one = controller("flops=0.5,params=0.5")
    assert one.uses(ONE) == {"flops": 0.2, "params": 0.5}
    assert one.used(ONE) == 0.5
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
