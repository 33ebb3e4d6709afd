import pytest
import torch
from expecttest import TestCase
from small_graphs import Calls, Plain, assert_same, exported, outputs, plain, snapshot, targets
from torch import nn

import vibfx
from vibfx.errors import GraphError
from vibfx.passes import EraseAsserts, FoldConstants


def table(self, x):
    """A ramp times a buffer is constant; what the weights or the batch enter is not."""
    ramp = torch.arange(4, dtype=torch.float32) * self.scale
    return self.layer(x) + ramp + self.layer.bias * ramp


def graph_of(forward=table, **parts):
    torch.manual_seed(0)
    parts = parts or {"scale": nn.Buffer(torch.tensor([1.0, 2.0, 3.0, 4.0]))}
    model = Calls(forward, layer=nn.Linear(3, 4), **parts)
    graph = exported(model, torch.ones(2, 3))
    EraseAsserts()(graph)
    return model, graph


class Golden(TestCase):
    def test_before_and_after(self):
        _, graph = graph_of()
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[4, 3] = attribute layer.weight
%layer_bias: f32[4] = attribute layer.bias
%scale: f32[4] = attribute scale
%x: f32[N, 3] = input
%arange: f32[4] = aten.arange(4, dtype=torch.float32, device=cpu, pin_memory=False)
%mul: f32[4] = aten.mul.Tensor(%arange, %scale)
%linear: f32[N, 4] = aten.linear(%x, %layer_weight, %layer_bias)  # layer
%add: f32[N, 4] = aten.add.Tensor(%linear, %mul)
%mul_1: f32[4] = aten.mul.Tensor(%layer_bias, %mul)
%add_1: f32[N, 4] = aten.add.Tensor(%add, %mul_1)
return [%add_1]
""",
        )
        assert FoldConstants()(graph).modified
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[4, 3] = attribute layer.weight
%layer_bias: f32[4] = attribute layer.bias
%x: f32[N, 3] = input
%constant_0: f32[4] = attribute constant_0
%linear: f32[N, 4] = aten.linear(%x, %layer_weight, %layer_bias)  # layer
%add: f32[N, 4] = aten.add.Tensor(%linear, %constant_0)
%mul_1: f32[4] = aten.mul.Tensor(%layer_bias, %constant_0)
%add_1: f32[N, 4] = aten.add.Tensor(%add, %mul_1)
return [%add_1]
""",
        )


def test_computes_the_same_and_holds_the_value():
    model, graph = graph_of()
    FoldConstants()(graph)
    assert torch.equal(graph.get_buffer("constant_0"), torch.tensor([0.0, 2.0, 6.0, 12.0]))
    for batch in (1, 2, 7):
        assert torch.equal(outputs(graph, (3,), batch), outputs(model, (3,), batch))


def test_what_depends_on_the_batch_size_stays():
    def forward(self, x):
        return self.layer(x) + torch.arange(x.shape[0], dtype=torch.float32)[:, None]

    model, graph = graph_of(forward)
    assert not FoldConstants()(graph).modified
    for batch in (1, 2, 7):
        assert torch.equal(outputs(graph, (3,), batch), outputs(model, (3,), batch))


def test_what_depends_on_parameters_stays():
    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight * 2.0, self.layer.bias.neg())

    _, graph = graph_of(forward)
    assert not FoldConstants()(graph).modified
    assert "aten.mul.Tensor" in targets(graph)


def test_what_draws_random_numbers_stays():
    def forward(self, x):
        return self.layer(x) + torch.rand(4)

    _, graph = graph_of(forward)
    assert not FoldConstants()(graph).modified
    assert "aten.rand.default" in targets(graph)
    x = torch.ones(2, 3)
    assert not torch.equal(graph(x), graph(x))


def test_running_statistics_stay_what_they_are():
    model = Plain()
    before = vibfx.format_graph(vibfx.trace(model, torch.ones(2, 1, 5, 5)))
    graph = vibfx.trace(model, torch.ones(2, 1, 5, 5))
    assert not FoldConstants()(graph).modified
    assert vibfx.format_graph(graph) == before
    assert "%norm_running_var: f32[4] = attribute norm.running_var" in before


def test_what_is_worked_out_from_running_statistics_stays():
    """Training moves them, and with them what is worked out from them."""

    def forward(self, x):
        return self.norm(self.layer(x)) + self.norm.running_mean * 2.0

    _, graph = graph_of(forward, norm=nn.BatchNorm1d(4))
    assert not FoldConstants()(graph).modified
    assert "aten.mul.Tensor" in targets(graph)


def test_two_constants_get_two_names_beside_one_that_is_taken():
    def forward(self, x):
        first, second = torch.arange(4) * 2, torch.ones(4) + self.constant_0
        return self.layer(x) * first + second

    model, graph = graph_of(forward, constant_0=nn.Buffer(torch.full((4,), 0.5)))
    FoldConstants()(graph)
    assert torch.equal(graph.get_buffer("constant_1"), torch.tensor([0, 2, 4, 6]))
    assert torch.equal(graph.get_buffer("constant_2"), torch.full((4,), 1.5))
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_refuses_a_graph_that_still_writes():
    def forward(self, x):
        return self.layer(x).relu_()

    _, graph = graph_of(forward)
    before = snapshot(graph)
    with pytest.raises(GraphError, match=r"aten.relu_.default writes to its input") as caught:
        FoldConstants()(graph)
    assert caught.value.__notes__ == ["in pass fold-constants"]
    assert_same(before, snapshot(graph))


def test_twice_changes_nothing_more():
    _, graph = graph_of()
    FoldConstants()(graph)
    before = snapshot(graph)
    assert not FoldConstants()(graph).modified
    assert_same(before, snapshot(graph))


def test_changes_nothing_where_nothing_is_constant():
    graph = plain()
    before = snapshot(graph)
    assert not FoldConstants()(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    _, graph = graph_of()
    assert FoldConstants.in_place
    assert FoldConstants()(graph).graph_module is graph
