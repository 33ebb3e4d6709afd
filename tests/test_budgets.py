"""Targets, and what can be reached."""

import math
import re

import numpy as np
import pytest
from networks import SideBySide, traced

import vibfx
from vibfx.budgets import Budget, cheapest, check_reachable, parse_target
from vibfx.costs import COUNTED, CostModel
from vibfx.errors import TargetError


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


@pytest.mark.parametrize("kind", COUNTED)
def test_what_cannot_be_reached_is_refused_and_the_least_named_can_be(lenet_costs, kind):
    coupling, costs = lenet_costs
    with pytest.raises(TargetError, match=f"{kind}=0.0001 cannot be reached") as caught:
        check_reachable((Budget(kind, 0.0001),), coupling, costs)
    (named,) = re.findall(rf"{kind}=([\d.]+)\.$", caught.value.hint)
    least = {"flops": 25 * 576 + 25 * 64 + 16 + 10, "params": 26 + 26 + 17 + 20}[kind]
    full = {"flops": 2_293_000, "params": 431_080}[kind]
    assert float(named) == math.ceil(1000 * least / full) / 1000
    check_reachable((Budget(kind, float(named)),), coupling, costs)


def test_every_budget_is_checked(lenet_costs):
    coupling, costs = lenet_costs
    check_reachable((Budget("flops", 0.5), Budget("params", 0.5)), coupling, costs)
    with pytest.raises(TargetError, match=r"params=1e-05"):
        check_reachable((Budget("flops", 0.5), Budget("params", 0.00001)), coupling, costs)


def test_of_branches_that_may_not_all_go_one_counts_for_what_is_reachable():
    graph = traced(SideBySide(), (12,))
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    least = cheapest("flops", coupling, costs)
    assert least.sum() == 1
    share = costs.cost("flops", least) / costs.cost("flops", np.ones(coupling.units, dtype=bool))
    check_reachable(parse_target(f"flops={share + 1e-6}"), coupling, costs)
    with pytest.raises(TargetError, match="cannot be reached"):
        check_reachable(parse_target(f"flops={share - 1e-6}"), coupling, costs)
