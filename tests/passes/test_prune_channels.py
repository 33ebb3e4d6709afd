import dataclasses

import pytest
import torch
from expecttest import TestCase
from networks import Residual, gated, randomize, shut_half, traced
from small_graphs import (
    Calls,
    assert_same,
    assert_shares_no_memory,
    dense,
    layers,
    opened,
    outputs,
    plain,
    set_gate,
    snapshot,
)
from torch import nn

import vibfx
from vibfx.architecture import Architecture
from vibfx.copying import copy_graph_module
from vibfx.errors import GraphError, PlanError
from vibfx.gates import gates_of
from vibfx.passes import FoldGates, PruneChannels
from vibfx.planning import PruningPlan

SHAPE = (1, 5, 5)


def shut_plain(mu=(1.5, 0.0, 0.5, 0.0)):
    module = gated(plain())
    set_gate(module, "gates.conv", mu)
    randomize(module, SHAPE)
    return module


def prune(module):
    return PruneChannels(vibfx.plan(module))(module).graph_module


def shut_dense():
    module = dense()
    set_gate(module, "gates.stem", [0.5, 0.0, 1.5, 1.0])
    set_gate(module, "gates.conv1", [0.0, 0.75, 1.25])
    set_gate(module, "gates.conv2", [0.0, 2.0])
    randomize(module, (1, 4, 4))
    return module


class Golden(TestCase):
    def test_before_and_after(self):
        module = layers(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3,))
        set_gate(module, "gates.0", [1.0, 0.0, 0.0, 1.0])
        self.assertExpectedInline(
            vibfx.format_graph(module),
            """\
%_0_weight: f32[4, 3] = attribute 0.weight
%_0_bias: f32[4] = attribute 0.bias
%_2_weight: f32[2, 4] = attribute 2.weight
%_2_bias: f32[2] = attribute 2.bias
%input_1: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
%relu: f32[N, 4] = aten.relu(%linear)  # 1
%gates_0: f32[N, 4] = gates.0(%relu)
%apply_gates: f32[N, 4] = apply_gates(%relu, [%gates_0])  # 1
%linear_1: f32[N, 2] = aten.linear(%apply_gates, %_2_weight, %_2_bias)  # 2
return [%linear_1]
""",
        )
        result = PruneChannels(vibfx.plan(module))(module)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%_0_weight: f32[2, 3] = attribute 0.weight
%_0_bias: f32[2] = attribute 0.bias
%_2_weight: f32[2, 2] = attribute 2.weight
%_2_bias: f32[2] = attribute 2.bias
%input_1: f32[N, 3] = input
%linear: f32[N, 2] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
%relu: f32[N, 2] = aten.relu(%linear)  # 1
%gates_0: f32[N, 2] = gates.0(%relu)
%apply_gates: f32[N, 2] = apply_gates(%relu, [%gates_0])  # 1
%linear_1: f32[N, 2] = aten.linear(%apply_gates, %_2_weight, %_2_bias)  # 2
return [%linear_1]
""",
        )


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_gated_graph_with_the_same_units_shut(seed):
    torch.manual_seed(seed)
    module = gated(traced(Residual(4), (1, 6, 6)))
    shut_half(module, seed)
    randomize(module, (1, 6, 6), seed)
    small = prune(module)
    found = vibfx.verify(module, small, batch_sizes=(1, 2, 7), seed=seed)
    assert found.error < 1e-12
    assert found.sensitivity > 1e-3
    assert small.get_parameter("block2.conv2.weight").shape == (4, 4, 3, 3)


def test_slices_are_those_of_the_kept_indices():
    module = shut_plain()
    small = prune(module)
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.running_mean", "gates.conv.mu"):
        assert torch.equal(small.state_dict()[name], module.state_dict()[name][[0, 2]]), name
    head = module.get_parameter("head.weight")
    assert torch.equal(small.get_parameter("head.weight"), head[:, [0, 2]])
    assert torch.equal(small.get_parameter("head.bias"), module.get_parameter("head.bias"))
    assert small.get_parameter("conv.weight").requires_grad


def test_nodes_keep_their_names_and_note_what_they_kept():
    module = shut_plain()
    small = prune(module)
    names = [n.name for n in module.graph.nodes]
    assert [n.name for n in small.graph.nodes] == names
    kept = {n.name: n.meta["kept"] for n in small.graph.nodes if n.meta.get("kept")}
    assert set(kept) == {"conv2d", "batch_norm", "relu", "gates_conv", "apply_gates", "mean"}
    assert all(list(k) == [1] and k[1].tolist() == [0, 2] for k in kept.values())
    shapes = {n.name: tuple(n.meta["val"].shape[1:]) for n in small.graph.nodes if n.name in kept}
    assert shapes["conv2d"] == (2, 5, 5)
    assert shapes["mean"] == (2,)


def test_an_ungated_graph_is_cut_by_the_plan_of_its_gated_twin():
    torch.manual_seed(0)
    graph = traced(Residual(4), (1, 6, 6))
    randomize(graph, (1, 6, 6))
    module = gated(graph)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu[::2] = 0.0
    plan = vibfx.plan(module)
    small = PruneChannels(plan)(graph).graph_module
    assert not gates_of(small)
    assert vibfx.verify(module, small).error < 1e-12
    assert_same_weights(small, PruneChannels(plan)(module).graph_module)


def assert_same_weights(small, other):
    for name, value in small.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_second_round_cuts_what_the_first_one_left():
    module = opened(Residual(6), (1, 6, 6))
    shut_half(module, 0, 1 / 3)
    randomize(module, (1, 6, 6))
    first = prune(module)
    units = {name: gate.units for name, gate in gates_of(first).items()}
    assert units["gates.stem_0"] == 4
    with torch.no_grad():
        for gate in gates_of(first).values():
            gate.mu[0] = 0.0
    second_plan = vibfx.plan(first)
    second = PruneChannels(second_plan)(first).graph_module
    assert {name: gate.units for name, gate in gates_of(second).items()} == {
        name: count - 1 for name, count in units.items()
    }
    assert second_plan.shapes["stem.0.weight"] == (4, 1, 3, 3)
    assert vibfx.verify(first, second).error < 1e-12
    folded = FoldGates()(second).graph_module
    assert vibfx.verify(first, folded, tolerance=1e-5).sensitivity > 1e-3


def test_a_second_round_leaves_a_layer_that_is_down_to_one_channel():
    module = layers(
        *(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), shape=(3,)
    )
    set_gate(module, "gates.0", [0.0, 0.0, 1.0, 0.0])
    first = prune(module)
    set_gate(first, "gates.2", [1.0, 1.0, 1.0, 1.0, 0.0])
    second = prune(first)
    assert {name: gate.units for name, gate in gates_of(second).items()} == {
        "gates.0": 1,
        "gates.2": 4,
    }
    assert vibfx.verify(first, second).error < 1e-12


def test_a_plan_of_a_graph_with_one_channel_everywhere_is_empty():
    module = layers(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3,))
    set_gate(module, "gates.0", [0.0, 0.0, 1.0, 0.0])
    first = prune(module)
    plan = vibfx.plan(first)
    assert dict(plan.parameters) == {}
    assert not PruneChannels(plan)(first).modified


def test_a_second_round_after_folding():
    module = shut_plain()
    folded = FoldGates()(prune(module)).graph_module
    again = gated(folded)
    set_gate(again, "gates.conv", [0.0, 1.0])
    small = prune(again)
    assert small.get_parameter("conv.weight").shape == (1, 1, 3, 3)
    assert vibfx.verify(again, small).error < 1e-12


def test_index_buffers_of_sites_with_several_gates_are_renumbered():
    module = shut_dense()
    small = prune(module)
    assert {name: gate.units for name, gate in gates_of(small).items()} == {
        "gates.stem": 3,
        "gates.conv1": 2,
        "gates.conv2": 1,
    }
    assert small.get_buffer("gate_index_0").flatten().tolist() == [0, 1, 2, 3, 4]
    assert small.get_buffer("gate_index_1").flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(
        small.get_buffer("norm3.running_var"),
        module.get_buffer("norm3.running_var")[[0, 2, 3, 5, 6, 8]],
    )
    found = vibfx.verify(module, small)
    assert found.error < 1e-12
    assert found.sensitivity > 1e-3
    # The renumbered gates still do something: each of them, another value shows.
    for name in gates_of(small):
        other = PruneChannels(vibfx.plan(module))(module).graph_module
        with torch.no_grad():
            gates_of(other)[name].mu[-1] += 0.1
        with pytest.raises(vibfx.VibfxError, match="computes something else"):
            vibfx.verify(module, other)


def test_index_entries_that_repeat_and_the_final_one():
    """Two pixels a channel in one flattened row, beside features that no gate governs."""

    def forward(self, x):
        y = torch.relu(self.conv(x)).flatten(1)
        return self.head(torch.tanh(torch.cat([x.flatten(1), self.shift(y)], 1)))

    model = Calls(forward, conv=nn.Conv1d(1, 3, 1), shift=nn.BatchNorm1d(6), head=nn.Linear(8, 2))
    module = opened(model, (1, 2))
    names = dict(gates_of(module))
    set_gate(module, "gates.conv", [0.5, 0.0, 2.0])
    randomize(module, (1, 2))
    assert names["gates.conv"].units == 3
    before = [b.flatten().tolist() for n, b in module.named_buffers() if "gate_index" in n]
    assert [0, 0, 1, 1, 2, 2] in before
    small = prune(module)
    after = [b.flatten().tolist() for n, b in small.named_buffers() if "gate_index" in n]
    assert [0, 0, 1, 1] in after
    assert small.get_parameter("head.weight").shape == (2, 6)
    found = vibfx.verify(module, small)
    assert found.error < 1e-12
    assert found.sensitivity > 1e-3


def test_an_analysis_at_hand_is_not_made_again():
    module = shut_plain()
    found, plan = vibfx.analyze(module), vibfx.plan(module)
    expected = snapshot(prune(module))
    assert_same(snapshot(PruneChannels(plan, found)(module).graph_module), expected)
    twin = copy_graph_module(module)  # an analysis holds for a copy as well
    assert_same(snapshot(PruneChannels(plan, found)(twin).graph_module), expected)


def test_refuses_the_analysis_of_another_graph():
    module = shut_plain()
    with pytest.raises(GraphError, match="the analysis is of another graph"):
        PruneChannels(vibfx.plan(module), vibfx.analyze(shut_dense()))(module)
    small = prune(module)
    unknown = dataclasses.replace(vibfx.plan(module), architecture=Architecture())
    with pytest.raises(GraphError, match="the analysis is of another graph"):
        PruneChannels(unknown, vibfx.analyze(module))(small)


def test_an_empty_plan_changes_nothing():
    module = shut_plain()
    result = PruneChannels(PruningPlan({}, {}, ()))(module)
    assert not result.modified
    assert_same(snapshot(module), snapshot(result.graph_module))


def test_running_it_twice():
    module = shut_plain()
    plan = vibfx.plan(module)
    once, again = PruneChannels(plan)(module), PruneChannels(plan)(module)
    assert_same(snapshot(once.graph_module), snapshot(again.graph_module))
    # A plan counts from full sizes, so what is cut already is refused rather than cut again.
    with pytest.raises(PlanError, match=r"it has shape \(4, 1, 3, 3\) where this graph has shape"):
        PruneChannels(plan)(once.graph_module)
    # What the gates of the result ask for is nothing more.
    assert not PruneChannels(vibfx.plan(once.graph_module))(once.graph_module).modified


def test_the_input_is_not_modified():
    module = shut_plain()
    before = snapshot(module)
    small = prune(module)
    assert_same(before, snapshot(module))
    assert all("kept" not in n.meta for n in module.graph.nodes)
    assert_shares_no_memory(module, small)
    assert not PruneChannels.in_place


def test_float64_stays_float64():
    module = shut_plain().double()
    small = prune(module)
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert outputs(small.float(), SHAPE).shape == (3, 3)


# Refusals. The valid plan that they start from:

KEPT = {
    "conv.weight": {0: (0, 2)},
    "conv.bias": {0: (0, 2)},
    "norm.weight": {0: (0, 2)},
    "norm.bias": {0: (0, 2)},
    "head.weight": {1: (0, 2)},
    "norm.running_mean": {0: (0, 2)},
    "norm.running_var": {0: (0, 2)},
}
SHAPES = dict.fromkeys(KEPT, (4,)) | {"conv.weight": (4, 1, 3, 3), "head.weight": (3, 4)}


def plan_with(**changes):
    """The valid plan with other entries, ``conv_weight`` for ``conv.weight``; None drops one."""
    entries = {name.replace("_", ".", 1): dims for name, dims in changes.items()}
    merged = {**KEPT, **entries}
    return PruningPlan({n: d for n, d in merged.items() if d is not None}, SHAPES, ())


def refusal(plan, module=None):
    module = shut_plain() if module is None else module
    before = snapshot(module)
    with pytest.raises(PlanError) as caught:
        PruneChannels(plan)(module)
    assert_same(before, snapshot(module))
    assert caught.value.__notes__ == ["in pass prune-channels"]
    return caught.value


def test_the_valid_plan_is_accepted():
    plan = vibfx.plan(shut_plain())
    assert (plan.parameters, plan.shapes) == (KEPT, SHAPES | {"head.bias": (3,)})
    assert PruneChannels(plan_with())(shut_plain()).modified


def test_the_order_of_kept_indices_means_nothing():
    module = shut_plain()
    turned = plan_with(conv_weight={0: (2, 0)}, head_weight={1: (2, 0)})
    small = PruneChannels(turned)(module).graph_module
    assert_same(snapshot(small), snapshot(prune(module)))


def test_refuses_a_plan_for_another_network():
    torch.manual_seed(0)
    other = traced(Residual(4), (1, 5, 5))
    error = refusal(plan_with(), other)
    assert error.what == "the plan cuts dimension 0 of a parameter that this graph does not have"
    assert error.where == "conv.weight"
    assert error.hint.startswith("The plan is for another network, or for one with its inputs")


def test_refuses_a_dimension_that_is_not_there():
    error = refusal(plan_with(conv_weight={0: (0, 2), 2: (0,)}))
    assert error.what == "the plan cuts dimension 2 of a parameter that this graph does not have"


def test_refuses_another_shape():
    wide = gated(plain(channels=6))
    error = refusal(vibfx.plan(shut_plain()), wide)
    assert error.what == (
        "the plan is for another network: it has shape (4, 1, 3, 3) where this graph has shape "
        "(6, 1, 3, 3)"
    )
    assert error.where == "conv.weight"
    error = refusal(plan_with(), wide)
    assert error.what == "the plan is for shape (4, 1, 3, 3), the parameter has (6, 1, 3, 3)"


@pytest.mark.parametrize("kept", [(0, 0), (0, 4), (-1, 0)], ids=["twice", "beyond", "negative"])
def test_refuses_indices_that_are_no_subset(kept):
    error = refusal(plan_with(conv_weight={0: kept}))
    assert error.what == "the kept indices of dimension 0 are no subset of it"
    assert error.where == "conv.weight"


def test_refuses_to_keep_nothing():
    nothing = {name: dict.fromkeys(dims, ()) for name, dims in KEPT.items()}
    error = refusal(dataclasses.replace(plan_with(), parameters=nothing))
    assert error.what == "the plan leaves no way from the model's input to its output"


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_weight": None},
        {"norm_running_mean": None},
        {"head_weight": {1: (0, 1)}},
        {"conv_weight": {0: (0,)}},
    ],
    ids=["a norm is left out", "a statistic is left out", "another index", "one index more"],
)
def test_refuses_a_cut_through_a_unit(changes):
    error = refusal(plan_with(**changes))
    assert error.what.startswith("the plan cuts through a unit at dimension")
    assert error.where in KEPT
    assert error.hint == "Indices that are coupled go together; make the plan with vibfx.plan."


def test_refuses_to_remove_an_output():
    error = refusal(plan_with(head_weight={0: (0, 1), 1: (0, 2)}, head_bias={0: (0, 1)}))
    assert error.what == (
        "the plan removes what has to stay: head.weight dim 0 (3 of 3): the model's output"
    )
    assert error.where == "head.weight"


def test_refuses_to_remove_an_input():
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    error = refusal(PruningPlan({"0.weight": {1: (0, 1)}}, {"0.weight": (4, 3)}, ()), graph)
    assert error.what.startswith(
        "the plan removes what has to stay: 0.weight dim 1 (3 of 3): reads features that cannot"
    )
