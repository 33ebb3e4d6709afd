import json
import random

import numpy as np
import pytest
import torch
from model_file_helpers import damaged
from networks import Residual, gated, shut_half, traced
from small_graphs import Calls, Plain, assert_same, dense, layers, opened, plain, set_gate, snapshot
from torch import nn

import vibfx
from vibfx.architecture import Architecture
from vibfx.errors import PlanError
from vibfx.gates import gates_of
from vibfx.passes import PruneChannels
from vibfx.planning import GroupPlan, PruningPlan, cover, plan_units, unit_log_alpha


def shut_plain(mu=(1.5, 0.0, 0.5, 0.0)):
    module = gated(plain())
    set_gate(module, "gates.conv", mu)
    return module


def shut_dense():
    module = dense()
    shut_half(module)
    return module


def test_a_plan_in_full():
    plan = vibfx.plan(shut_plain())
    kept = (0, 2)
    assert plan == PruningPlan(
        parameters={
            "conv.weight": {0: kept},
            "conv.bias": {0: kept},
            "norm.weight": {0: kept},
            "norm.bias": {0: kept},
            "head.weight": {1: kept},
            "norm.running_mean": {0: kept},
            "norm.running_var": {0: kept},
        },
        shapes={
            "conv.weight": (4, 1, 3, 3),
            "conv.bias": (4,),
            "norm.weight": (4,),
            "norm.bias": (4,),
            "head.weight": (3, 4),
            "norm.running_mean": (4,),
            "norm.running_var": (4,),
            "head.bias": (3,),
        },
        groups=(
            GroupPlan(
                name="conv",
                units=4,
                kept=kept,
                sites=("relu",),
                layers=(
                    *("conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight"),
                    *("norm.running_mean", "norm.running_var"),
                ),
                log_alpha=plan.groups[0].log_alpha,
            ),
        ),
        architecture=Architecture.of(plain()),
    )
    assert plan.removed_units == 2


def test_kept_units_are_those_of_the_open_gates():
    module = shut_dense()
    plan = vibfx.plan(module)
    gates = gates_of(module)
    assert [group.name for group in plan.groups] == ["stem", "conv1", "conv2"]
    for group in plan.groups:
        is_open = gates[f"gates.{group.name}"].open()
        assert group.kept == tuple(is_open.nonzero().flatten().tolist())
        assert 0 < len(group.kept) < group.units
        assert plan.parameters[f"{group.name}.weight"][0] == group.kept
    # What is read of a concatenation is read channel by channel of all its parts.
    stem, conv1, conv2 = (group.kept for group in plan.groups)
    assert plan.parameters["head.weight"][1] == (
        *stem,
        *(4 + i for i in conv1),
        *(7 + i for i in conv2),
    )
    assert plan.removed_units == sum(int((~g.open()).sum()) for g in gates.values())


def test_log_alpha_is_the_gates():
    module = shut_plain((3.0, 0.0, 0.5, -2.0))
    (group,) = vibfx.plan(module).groups
    expected = gates_of(module)["gates.conv"].log_alpha().tolist()
    assert group.log_alpha[1] is None  # minus infinity
    assert [group.log_alpha[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_the_threshold_of_the_gates_decides():
    module = shut_plain((1.0, 1.0, 1.0, 1.0))
    assert dict(vibfx.plan(module).parameters) == {}
    with torch.no_grad():
        gates_of(module)["gates.conv"].log_sigma2[3] = 0.0  # log alpha 0, at the threshold
    assert vibfx.plan(module).groups[0].kept == (0, 1, 2)
    gates_of(module)["gates.conv"].threshold = -0.5
    assert vibfx.plan(module).groups[0].kept == (0, 1, 2, 3)


def test_all_gates_open_removes_nothing():
    plan = vibfx.plan(gated(plain()))
    assert (plan.parameters, plan.removed_units) == ({}, 0)
    assert plan.shapes["head.bias"] == (3,)
    assert plan.groups[0].kept == (0, 1, 2, 3)


def test_the_gates_own_parameters_are_not_in_a_plan():
    module = shut_dense()
    plan = vibfx.plan(module)
    assert not any(name.startswith("gates.") for name in plan.parameters)
    assert not any(name.startswith("gates.") for name in plan.shapes)
    assert plan.parameters.keys() < plan.shapes.keys()


def test_the_weights_do_not_enter():
    module, other = shut_dense(), shut_dense()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if not name.startswith("gates."):
                parameter.normal_()
    assert vibfx.plan(module) == vibfx.plan(other)


def test_planning_leaves_the_graph_alone():
    module = shut_dense()
    before = snapshot(module)
    vibfx.plan(module)
    assert_same(before, snapshot(module))


def test_refuses_a_graph_without_gates():
    with pytest.raises(PlanError) as caught:
        vibfx.plan(plain())
    assert caught.value.what == "the graph has no gates"
    assert caught.value.hint == "Insert them with InsertGates first."


# Where all of a dimension would go, one index stays.


def test_the_unit_with_the_largest_log_alpha_stays():
    module = shut_plain((0.0, 1e-3, 2e-3, 0.0))  # all at or below the threshold
    assert not gates_of(module)["gates.conv"].open().any()
    plan = vibfx.plan(module)
    assert plan.groups[0].kept == (2,)
    assert plan.parameters["conv.weight"] == {0: (2,)}


def test_the_first_unit_stays_where_all_means_are_zero():
    plan = vibfx.plan(shut_plain((0.0, 0.0, 0.0, 0.0)))
    assert plan.groups[0].kept == (0,)
    assert plan.removed_units == 3


def test_cover_keeps_one_index_of_what_cannot_be_emptied():
    """The residual stream and its second half; not what is inside the two blocks."""
    module = opened(Residual(4), (1, 6, 6))
    coupling = vibfx.analyze(module)
    scores = np.random.default_rng(0).normal(size=coupling.units)
    nothing = np.zeros(coupling.units, dtype=bool)
    kept = cover(coupling, nothing, scores)
    assert not nothing.any()  # what is handed in stays as it is
    for group in coupling.groups:
        own = np.arange(group.start, group.start + group.size)
        if group.name in ("block1.conv1", "block2.conv1"):
            assert not kept[own].any()
        else:
            assert kept[own].sum() == 1
            assert scores[own][kept[own]] == scores[own].max()


def test_cover_changes_nothing_where_every_dimension_keeps_one():
    module = shut_dense()
    coupling = vibfx.analyze(module)
    keep = np.zeros(coupling.units, dtype=bool)
    for group in coupling.groups:
        keep[group.start + 1] = True
    assert np.array_equal(cover(coupling, keep), keep)


def test_a_concatenation_may_lose_all_of_one_part():
    module = dense()
    set_gate(module, "gates.conv1", [0.0, 0.0, 0.0])
    plan = vibfx.plan(module)
    assert plan.parameters["conv1.weight"][0] == ()
    assert plan.parameters["norm3.weight"][0] == (0, 1, 2, 3, 7, 8)
    assert {group.name: group.kept for group in plan.groups}["conv1"] == ()


def side_by_side():
    """Two branches, each of which may go, but not both."""

    def forward(net, x):
        branches = [torch.relu(net.a(x)), torch.relu(net.b(x))]
        return net.head(torch.cat(branches, 1))

    parts = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "head": nn.Linear(8, 2)}
    return opened(Calls(forward, **parts), (3,))


@pytest.mark.parametrize("better", ["a", "b"])
def test_of_branches_that_may_not_all_go_the_best_unit_comes_back(better):
    module = side_by_side()
    for name in ("a", "b"):
        set_gate(module, f"gates.{name}", [0.0, 0.0, 1e-3 if name == better else 0.0, 0.0])
    plan = vibfx.plan(module)
    kept = {group.name: group.kept for group in plan.groups}
    assert kept == {"a": (), "b": (), better: (2,)}
    small = PruneChannels(plan)(module).graph_module
    assert small.get_parameter("head.weight").shape == (2, 1)


def test_one_branch_alone_may_go():
    module = side_by_side()
    set_gate(module, "gates.a", [0.0] * 4)
    assert {group.name: len(group.kept) for group in vibfx.plan(module).groups} == {"a": 0, "b": 4}


def test_units_can_be_chosen_by_hand():
    graph = plain()
    coupling = vibfx.analyze(graph)
    plan = plan_units(graph, coupling, np.array([True, False, False, True]))
    assert plan.groups[0].kept == (0, 3)
    assert plan.groups[0].log_alpha == ()
    assert PruneChannels(plan)(graph).graph_module.get_parameter("conv.weight").shape[0] == 2


def test_a_gate_whose_only_unit_stays_decides_over_no_other_unit():
    """A layer cut down to one channel is no unit any more, but its gate is still there."""
    module = layers(
        *(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), shape=(3,)
    )
    set_gate(module, "gates.0", [0.0, 0.0, 3.0, 0.0])
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    set_gate(small, "gates.2", [1.0, 1.0, 1.0, 1.0, 0.0])
    plan = vibfx.plan(small)
    assert [(group.name, group.kept) for group in plan.groups] == [("2", (0, 1, 2, 3))]
    coupling = vibfx.analyze(small)
    assert unit_log_alpha(small, coupling)[-1] == -np.inf


# As text.


def test_json_comes_back_equal(tmp_path):
    for module in (shut_plain(), shut_dense(), gated(plain())):
        plan = vibfx.plan(module)
        assert PruningPlan.from_json(plan.to_json()) == plan
        plan.save(tmp_path / "plan.json")
        assert PruningPlan.load(tmp_path / "plan.json") == plan
        assert PruningPlan.load(str(tmp_path / "plan.json")) == plan


def test_json_is_plain_json_with_a_format():
    text = vibfx.plan(shut_plain()).to_json()
    fields = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert fields["format"] == 1
    assert fields["parameters"]["head.weight"] == {"1": [0, 2]}
    assert fields["groups"][0]["log_alpha"][1] is None


def test_a_plan_from_text_cuts_the_same():
    module = shut_plain()
    plan = vibfx.plan(module)
    direct = PruneChannels(plan)(module).graph_module
    read = PruneChannels(PruningPlan.from_json(plan.to_json()))(module).graph_module
    assert_same(snapshot(direct), snapshot(read))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '"a plan"',
        "{}",
        '{"format": 1}',
        '{"format": 1, "parameters": {"a": {"0": 3}}, "shapes": {}, "groups": []}',
        '{"format": 1, "parameters": {"a": {"x": [0]}}, "shapes": {}, "groups": []}',
        '{"format": 1, "parameters": {"a": [0]}, "shapes": {}, "groups": []}',
        '{"format": 1, "parameters": {}, "shapes": {"a": ["x"]}, "groups": []}',
        '{"format": 1, "parameters": {}, "shapes": {}, "groups": [{"name": "a"}]}',
        '{"format": 1, "parameters": {}, "shapes": {}, "groups": [{"surname": "a"}]}',
        '{"format": 1, "parameters": {}, "shapes": {}, "groups": []}',
        '{"format": 1, "parameters": {}, "shapes": {}, "groups": [], "architecture": {}}',
    ],
)
def test_refuses_what_is_no_plan(text):
    with pytest.raises(PlanError) as caught:
        PruningPlan.from_json(text)
    assert caught.value.what.startswith("this is not a pruning plan (")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_refuses_a_foreign_format(version):
    fields = {**json.loads(vibfx.plan(shut_plain()).to_json()), "format": version}
    with pytest.raises(PlanError) as caught:
        PruningPlan.from_json(json.dumps(fields))
    assert caught.value.what == f"the plan has format {version}, this version reads 1"


def test_a_damaged_plan_is_refused_or_another_plan():
    whole = vibfx.plan(shut_plain()).to_json().encode()
    refused = 0
    for seed in range(300):
        try:
            PruningPlan.from_json(damaged(whole, random.Random(seed)).decode(errors="replace"))
        except PlanError:
            refused += 1
    assert 100 < refused < 300


def test_refuses_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError) as caught:
        PruningPlan.load(tmp_path / "none.json")
    assert caught.value.what == "the plan cannot be read"
    assert caught.value.where == str(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="the plan cannot be read"):
        PruningPlan.load(tmp_path / "bytes.json")


def test_the_plan_of_a_model_fits_another_copy_of_it():
    plan = vibfx.plan(shut_plain())
    other = traced(Plain(), (1, 5, 5))
    small = PruneChannels(plan)(other).graph_module
    assert small.get_parameter("head.weight").shape == (3, 2)
