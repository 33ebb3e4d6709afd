import pytest
import torch
from applied_networks import plan_keeping, random_plan
from networks import Residual, traced
from torch import nn

import vibfx
from vibfx.errors import PlanError
from vibfx.plan_diff import GroupDiff, diff


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return traced(Residual(4), (1, 8, 8))


def test_a_plan_and_itself(graph):
    plan = plan_keeping(graph, stem_0=[0, 1])
    found = diff(plan, plan)
    assert (found.only_first, found.only_second) == ((), ())
    assert all(g.first == g.second == g.both for g in found.groups)
    assert found.groups[0] == GroupDiff("stem.0", 4, 2, 2, 2)


def test_counts_and_what_both_keep(graph):
    first = plan_keeping(graph, stem_0=[0, 1, 2], block1_conv1=[0])
    second = plan_keeping(graph, stem_0=[1, 2, 3], block2_conv1=[0, 1])
    found = diff(vibfx.PruningPlan.from_json(first.to_json()), second)
    groups = {group.name: group for group in found.groups}
    assert groups["stem.0"] == GroupDiff("stem.0", 4, 3, 3, 2)
    assert groups["block1.conv1"] == GroupDiff("block1.conv1", 4, 1, 4, 1)
    assert "block1.bn1.running_mean" in found.only_first
    assert "block2.conv1.bias" not in found.only_second  # it has none
    assert {"block2.bn1.weight", "block2.conv2.weight"} <= set(found.only_second)


def test_a_group_that_one_plan_does_not_know_is_whole_there():
    graph = traced(nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (3,))
    frozen, exact = random_plan(graph, norms="freeze"), random_plan(graph, norms="exact")
    (group,) = diff(frozen, exact).groups
    assert (group.units, group.first) == (6, 6)
    assert group.both == group.second < 6


def test_refuses_other_architectures_by_the_first_difference(graph):
    plan = plan_keeping(graph)
    with pytest.raises(PlanError, match="of different architectures") as caught:
        diff(plan, plan_keeping(traced(Residual(5), (1, 8, 8))))
    assert caught.value.where == "stem.0.weight"
    with pytest.raises(PlanError, match="no such parameter") as caught:
        diff(plan, plan_keeping(traced(nn.Sequential(Residual(4)), (1, 8, 8))))
    assert caught.value.where == "stem.0.weight"
