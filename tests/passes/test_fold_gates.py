import logging

import pytest
import torch
from expecttest import TestCase
from networks import gated, randomize, traced
from small_graphs import (
    Calls,
    Dense,
    assert_same,
    assert_shares_no_memory,
    dense,
    layers,
    opened,
    outputs,
    plain,
    set_gate,
    snapshot,
    targets,
)
from torch import nn

import vibfx
from vibfx.errors import GraphError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels

TOLERANCE = 1e-12
POSITIVE = (0.5, 2.0, 1.5, 0.75)
MIXED = (-0.5, 2.0, -1.5, 0.75)


def in_float64(module, shape):
    """Fitted in float32, folded in float64: the tolerance is then one of rounding alone."""
    randomize(module, shape)
    return to_dtype(module, torch.float64)


def fold(module, *, ops_left=None):
    """The folded graph, checked: no gate, the same function, and as many ops as without gates."""
    folded = FoldGates()(module).graph_module
    assert not gates_of(folded)
    found = vibfx.verify(module, folded, tolerance=TOLERANCE)
    assert found.sensitivity > 1e-4
    if ops_left is not None:
        assert targets(folded) == ops_left
    return folded


def without_gates(module):
    return [t for t in targets(module) if "gates" not in t]


def model_of(forward, shape, gate_values, **parts):
    module = opened(Calls(forward, **parts), shape)
    for name, mu in gate_values.items():
        set_gate(module, name, mu)
    return in_float64(module, shape)


class Golden(TestCase):
    def test_before_and_after(self):
        module = layers(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3,))
        set_gate(module, "gates.0", POSITIVE)
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
        result = FoldGates()(module)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%_0_weight: f32[4, 3] = attribute 0.weight
%_0_bias: f32[4] = attribute 0.bias
%_2_weight: f32[2, 4] = attribute 2.weight
%_2_bias: f32[2] = attribute 2.bias
%input_1: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
%relu: f32[N, 4] = aten.relu(%linear)  # 1
%linear_1: f32[N, 2] = aten.linear(%relu, %_2_weight, %_2_bias)  # 2
return [%linear_1]
""",
        )


def test_back_through_a_relu_into_the_layer():
    module = layers(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), shape=(3,))
    set_gate(module, "gates.0", POSITIVE)
    module = in_float64(module, (3,))
    folded = fold(module, ops_left=without_gates(module))
    mu = torch.tensor(POSITIVE, dtype=torch.float64)
    old = module.get_parameter
    assert torch.equal(folded.get_parameter("0.weight"), old("0.weight") * mu[:, None])
    assert torch.equal(folded.get_parameter("0.bias"), old("0.bias") * mu)
    assert torch.equal(folded.get_parameter("2.weight"), old("2.weight"))


def test_back_into_the_batch_norm():
    module = gated(plain())
    set_gate(module, "gates.conv", POSITIVE)
    module = in_float64(module, (1, 5, 5))
    folded = fold(module, ops_left=without_gates(module))
    mu = torch.tensor(POSITIVE, dtype=torch.float64)
    for name in ("norm.weight", "norm.bias"):
        assert torch.equal(folded.get_parameter(name), module.get_parameter(name) * mu)
    assert torch.equal(folded.get_parameter("conv.weight"), module.get_parameter("conv.weight"))
    assert torch.equal(folded.get_buffer("norm.running_var"), module.get_buffer("norm.running_var"))


def test_units_that_are_shut_are_folded_as_zeros():
    module = gated(plain())
    set_gate(module, "gates.conv", (0.5, 0.0, 1e-3, 2.0))  # the third is below the threshold
    module = in_float64(module, (1, 5, 5))
    folded = fold(module)
    assert torch.equal(folded.get_parameter("norm.weight")[1:3], torch.zeros(2).double())


def test_negative_means_go_back_where_nothing_is_between():
    module = layers(nn.Linear(3, 4), nn.Linear(4, 2), shape=(3,))
    set_gate(module, "gates.0", MIXED)
    module = in_float64(module, (3,))
    folded = fold(module, ops_left=without_gates(module))
    assert torch.equal(folded.get_parameter("1.weight"), module.get_parameter("1.weight"))


def test_negative_means_go_forward_where_a_relu_is_behind():
    module = layers(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
        shape=(1, 6, 6),
    )
    set_gate(module, "gates.0", MIXED)
    module = in_float64(module, (1, 6, 6))
    folded = fold(module, ops_left=without_gates(module))
    mu = torch.tensor(MIXED, dtype=torch.float64).repeat_interleave(4)
    assert torch.equal(folded.get_parameter("4.weight"), module.get_parameter("4.weight") * mu)
    assert torch.equal(folded.get_parameter("0.weight"), module.get_parameter("0.weight"))


def max_pooled():
    module = layers(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)),
        shape=(1, 6, 6),
    )
    set_gate(module, "gates.0", MIXED)
    return in_float64(module, (1, 6, 6))


def test_negative_means_in_front_of_a_max_pool_stay_and_are_warned_about(caplog):
    module = max_pooled()
    with caplog.at_level(logging.WARNING, logger="vibfx"):
        folded = fold(module)
    (record,) = [r for r in caplog.records if r.name.startswith("vibfx")]
    assert record.getMessage().startswith("the gate at apply_gates in 1 ")
    assert record.getMessage().endswith("stays as a multiplication by a constant")
    assert sorted(targets(folded)) == sorted([*without_gates(module), "aten.mul.Tensor"])
    constant = folded.get_buffer("gate_constant_0")
    assert torch.equal(constant.flatten(), torch.tensor(MIXED, dtype=torch.float64))
    for name, value in folded.named_parameters():
        assert torch.equal(value, module.get_parameter(name))


def test_nothing_is_warned_about_where_all_is_folded(caplog):
    module = gated(plain())
    with caplog.at_level(logging.WARNING, logger="vibfx"):
        FoldGates()(module)
    assert [r for r in caplog.records if r.name.startswith("vibfx")] == []


def test_a_graph_with_a_constant_left_over_can_be_gated_and_cut_again():
    again = gated(FoldGates()(max_pooled()).graph_module)
    set_gate(again, "gates.0", (1.0, 0.0, 1.0, 0.0))
    small = PruneChannels(vibfx.plan(again))(again).graph_module
    assert small.get_buffer("gate_constant_0").flatten().tolist() == [-0.5, -1.5]
    assert vibfx.verify(again, small).error < TOLERANCE


@pytest.mark.parametrize("act", [nn.SiLU(), nn.ReLU6(), nn.GELU(), nn.Tanh()])
@pytest.mark.parametrize("mu", [POSITIVE, MIXED], ids=["positive", "mixed"])
def test_behind_an_activation_that_bends_factors_it_goes_forward(act, mu):
    module = layers(nn.Conv2d(1, 4, 3), act, nn.Conv2d(4, 2, 3), nn.Flatten(), shape=(1, 6, 6))
    set_gate(module, "gates.0", mu)
    module = in_float64(module, (1, 6, 6))
    folded = fold(module, ops_left=without_gates(module))
    factor = torch.tensor(mu, dtype=torch.float64).reshape(1, 4, 1, 1)
    assert torch.equal(folded.get_parameter("2.weight"), module.get_parameter("2.weight") * factor)
    assert torch.equal(folded.get_parameter("0.weight"), module.get_parameter("0.weight"))


def test_nodes_without_their_factor_are_marked():
    module = layers(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2), shape=(3,))
    set_gate(module, "gates.0", POSITIVE)
    folded = FoldGates()(module).graph_module
    assert [n.name for n in folded.graph.nodes if n.meta.get("unscaled")] == ["silu"]


def test_forward_into_a_reader_of_a_concatenation():
    """Two gates meet in one weight: each scales its own columns, and no others."""

    def forward(self, x):
        parts = [torch.tanh(self.left(x)), torch.tanh(self.right(x)), x]
        return self.head(torch.cat(parts, 1))

    module = model_of(
        forward,
        (3,),
        {"gates.left": MIXED, "gates.right": (2.0, -3.0)},
        left=nn.Linear(3, 4),
        right=nn.Linear(3, 2),
        head=nn.Linear(9, 2),
    )
    folded = fold(module, ops_left=without_gates(module))
    columns = torch.tensor([*MIXED, 2.0, -3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    old = module.get_parameter("head.weight")
    assert torch.equal(folded.get_parameter("head.weight"), old * columns)


def test_forward_into_all_readers_one_of_them_depthwise():
    def forward(self, x):
        y = nn.functional.silu(self.stem(x))
        return self.one(y).mean((2, 3)) + self.head(self.norm(self.depth(y)).mean((2, 3)))

    module = model_of(
        forward,
        (1, 5, 5),
        {"gates.stem": MIXED},
        stem=nn.Conv2d(1, 4, 3, padding=1),
        one=nn.Conv2d(4, 2, 1),
        depth=nn.Conv2d(4, 4, 3, groups=4),
        norm=nn.BatchNorm2d(4),
        head=nn.Linear(4, 2),
    )
    assert "gates.stem" in gates_of(module)
    folded = fold(module, ops_left=without_gates(module))
    mu = torch.tensor(MIXED, dtype=torch.float64)
    old = module.get_parameter
    assert torch.equal(folded.get_parameter("one.weight"), old("one.weight") * mu[:, None, None])
    assert torch.equal(
        folded.get_parameter("depth.weight"), old("depth.weight") * mu[:, None, None, None]
    )


def test_forward_into_a_grouped_convolution():
    module = layers(
        *(nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten()),
        shape=(1, 6, 6),
    )
    mu = [0.5, 2.0, -1.5, 0.75]
    units = gates_of(module)["gates.0"].units
    assert units == 4  # the j-th channel of both groups goes together
    set_gate(module, "gates.0", mu)
    module = in_float64(module, (1, 6, 6))
    folded = fold(module, ops_left=without_gates(module))
    factor = torch.tensor(mu, dtype=torch.float64).reshape(1, 4, 1, 1)
    assert torch.equal(folded.get_parameter("2.weight"), module.get_parameter("2.weight") * factor)


def test_forward_into_a_convolution_that_loses_whole_groups():
    """One unit is the two channels of a group: each group's rows take their own factor."""

    def forward(self, x):
        y = nn.functional.silu(self.stem(x))
        return self.one(y).mean((2, 3)) + self.head(self.norm(self.pairs(y)).mean((2, 3)))

    module = model_of(
        forward,
        (1, 5, 5),
        {"gates.stem": (-0.5, 2.0)},
        stem=nn.Conv2d(1, 4, 3, padding=1),
        one=nn.Conv2d(4, 2, 1),
        pairs=nn.Conv2d(4, 4, 3, groups=2),
        norm=nn.BatchNorm2d(4),
        head=nn.Linear(4, 2),
    )
    folded = fold(module, ops_left=without_gates(module))
    rows = torch.tensor([-0.5, -0.5, 2.0, 2.0], dtype=torch.float64)[:, None, None, None]
    old = module.get_parameter("pairs.weight")
    assert torch.equal(folded.get_parameter("pairs.weight"), old * rows)


def test_a_layer_whose_weight_has_two_readers_is_not_scaled(caplog):
    """The same layer runs twice, so that a factor for one of its readers would reach both."""

    def forward(self, x):
        return self.head(torch.relu(self.inner(x)) + torch.relu(self.inner(-x)))

    module = opened(Calls(forward, inner=nn.Linear(3, 4), head=nn.Linear(4, 2)), (3,))
    set_gate(module, "gates.inner", POSITIVE)
    module = in_float64(module, (3,))
    folded = fold(module)
    assert torch.equal(folded.get_parameter("inner.weight"), module.get_parameter("inner.weight"))


def test_a_block_of_concatenations_with_norms_in_front():
    module = dense()
    set_gate(module, "gates.stem", POSITIVE)
    set_gate(module, "gates.conv1", (0.5, 0.0, 2.0))
    set_gate(module, "gates.conv2", (1.25, 3.0))
    module = in_float64(module, (1, 4, 4))
    folded = fold(module, ops_left=without_gates(module))
    factors = torch.tensor([*POSITIVE, 0.5, 0.0, 2.0, 1.25, 3.0], dtype=torch.float64)
    old = module.get_parameter("norm3.weight")
    assert torch.equal(folded.get_parameter("norm3.weight"), old * factors)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    fold(small, ops_left=without_gates(small))


def test_a_block_of_concatenations_with_negative_means(caplog):
    module = dense()
    set_gate(module, "gates.stem", MIXED)
    set_gate(module, "gates.conv1", (0.5, 0.0, -2.0))
    set_gate(module, "gates.conv2", (-1.25, 3.0))
    fold(in_float64(module, (1, 4, 4)))


def test_refuses_a_graph_that_breaks_the_rules():
    module = gated(plain())
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default):
        node.target = torch.ops.aten.relu_.default
    with pytest.raises(GraphError, match=r"aten.relu_.default writes to its input") as caught:
        FoldGates()(module)
    assert caught.value.__notes__ == ["in pass fold-gates"]


def test_twice_changes_nothing_more():
    folded = FoldGates()(max_pooled()).graph_module
    again = FoldGates()(folded)
    assert not again.modified
    assert_same(snapshot(folded), snapshot(again.graph_module))


def test_the_input_is_not_modified():
    module = gated(plain())
    set_gate(module, "gates.conv", POSITIVE)
    before = snapshot(module)
    folded = FoldGates()(module).graph_module
    assert_same(before, snapshot(module))
    assert_shares_no_memory(module, folded)
    assert not FoldGates.in_place


def test_open_gates_of_one_fold_to_the_very_same_numbers():
    torch.manual_seed(0)
    graph = traced(Dense(), (1, 4, 4))
    folded = FoldGates()(gated(graph)).graph_module
    assert torch.equal(outputs(folded, (1, 4, 4)), outputs(graph, (1, 4, 4)))
    assert vibfx.format_graph(folded) == _without_counters(vibfx.format_graph(graph))


def _without_counters(text):
    """The first rewrite drops what nothing reads: how many batches a norm has seen."""
    kept = [line for line in text.splitlines() if "num_batches_tracked" not in line]
    return "\n".join(kept) + "\n"
