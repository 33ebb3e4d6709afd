import pytest
import torch
from expecttest import TestCase
from small_graphs import Calls, assert_same, exported, outputs, plain, snapshot, targets
from torch import nn

import vibfx
from vibfx.errors import GraphError
from vibfx.graph import check_graph
from vibfx.passes import EraseAsserts, InlineRegions


def regions(self, x):
    """An autocast region in a no-grad region, with two results that are used outside."""
    with torch.no_grad():
        y = self.inner(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            a, b = torch.relu(y), y + 1
    return self.outer(a) * b


def with_regions():
    torch.manual_seed(0)
    model = Calls(regions, inner=nn.Linear(3, 2), outer=nn.Linear(2, 2))
    return model, exported(model, torch.ones(2, 3))


class Golden(TestCase):
    def test_before_and_after(self):
        _, graph = with_regions()
        self.assertExpectedInline(
            "\n".join(targets(graph)),
            """\
wrap_with_set_grad_enabled
<built-in function getitem>
<built-in function getitem>
aten.linear.default
aten.mul.Tensor""",
        )
        assert InlineRegions()(graph).modified
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%inner_weight: f32[2, 3] = attribute inner.weight
%inner_bias: f32[2] = attribute inner.bias
%outer_weight: f32[2, 2] = attribute outer.weight
%outer_bias: f32[2] = attribute outer.bias
%x: f32[N, 3] = input
%linear: f32[N, 2] = aten.linear(%x, %inner_weight, %inner_bias)  # inner
%relu_2: f32[N, 2] = aten.relu(%linear)
%add_2: f32[N, 2] = aten.add.Tensor(%linear, 1)
%linear_1: f32[N, 2] = aten.linear(%relu_2, %outer_weight, %outer_bias)  # outer
%mul: f32[N, 2] = aten.mul.Tensor(%linear_1, %add_2)
return [%mul]
""",
        )


def test_computes_the_same_for_several_batch_sizes():
    model, graph = with_regions()
    InlineRegions()(graph)
    for batch in (1, 2, 7):
        expected = outputs(model, (3,), batch)
        assert torch.equal(outputs(graph, (3,), batch), expected)


def test_gradients_reach_what_a_region_kept_them_from():
    _, graph = with_regions()
    InlineRegions()(graph)
    graph(torch.ones(2, 3)).sum().backward()
    assert graph.get_parameter("inner.weight").grad.abs().sum() > 0


def test_a_region_that_writes_a_buffer_and_one_that_is_only_passed_through():
    def forward(self, x):
        with torch.no_grad():
            y = x * self.table
        with torch.enable_grad():
            z = y + self.table
        return self.layer(z)

    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 2), table=nn.Buffer(torch.tensor([1.0, 2.0, 3.0])))
    graph = exported(model, torch.ones(2, 3))
    InlineRegions()(graph)
    check_graph(graph)
    assert targets(graph) == ["aten.mul.Tensor", "aten.add.Tensor", "aten.linear.default"]
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_a_region_of_another_kind_is_left_and_refused_by_the_graph_check():
    def forward(self, x):
        return torch.cond(self.flag.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.layer(x),))

    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 2), flag=nn.Buffer(torch.ones(1)))
    graph = exported(model, torch.ones(2, 3))
    assert not InlineRegions()(graph).modified
    with pytest.raises(GraphError, match=r"true_graph_0 is a .*, not a tensor"):
        check_graph(graph)


def test_twice_changes_nothing_more():
    _, graph = with_regions()
    InlineRegions()(graph)
    before = snapshot(graph)
    assert not InlineRegions()(graph).modified
    assert_same(before, snapshot(graph))


def test_changes_nothing_where_there_is_no_region():
    graph = plain()
    before = snapshot(graph)
    assert not InlineRegions()(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    _, graph = with_regions()
    assert InlineRegions.in_place
    assert InlineRegions()(graph).graph_module is graph


def test_no_assert_of_a_region_survives_a_trace():
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            return self.layer(x).to(torch.float32)

    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 2))
    graph = exported(model, torch.ones(2, 3))
    InlineRegions()(graph)
    assert "aten._assert_tensor_metadata.default" in targets(graph)
    EraseAsserts()(graph)
    assert "aten._assert_tensor_metadata.default" not in targets(graph)
    assert targets(vibfx.trace(model, torch.ones(2, 3))) == targets(graph)
