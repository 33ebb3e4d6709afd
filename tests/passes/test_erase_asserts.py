import torch
from expecttest import TestCase
from small_graphs import Calls, assert_same, exported, outputs, plain, snapshot, targets
from torch import nn

import vibfx
from vibfx.passes import EraseAsserts

ASSERT = "aten._assert_tensor_metadata.default"


def casts(self, x):
    return self.layer(x.to(torch.float64).to(torch.float32))


def with_asserts(*, guards=False):
    torch.manual_seed(0)
    return exported(Calls(casts, layer=nn.Linear(3, 2)), torch.ones(2, 3), guards=guards)


class Golden(TestCase):
    def test_before_and_after(self):
        graph = with_asserts()
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[2, 3] = attribute layer.weight
%layer_bias: f32[2] = attribute layer.bias
%x: f32[N, 3] = input
%_assert_tensor_metadata_default: NoneType = aten._assert_tensor_metadata(%x, dtype=torch.float32, device=cpu, layout=torch.strided)
%to: f64[N, 3] = aten.to.dtype(%x, torch.float64)
%_assert_tensor_metadata_default_1: NoneType = aten._assert_tensor_metadata(%to, dtype=torch.float64, device=cpu, layout=torch.strided)
%to_1: f32[N, 3] = aten.to.dtype(%to, torch.float32)
%linear: f32[N, 2] = aten.linear(%to_1, %layer_weight, %layer_bias)  # layer
return [%linear]
""",  # noqa: E501
        )
        assert EraseAsserts()(graph).modified
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[2, 3] = attribute layer.weight
%layer_bias: f32[2] = attribute layer.bias
%x: f32[N, 3] = input
%to: f64[N, 3] = aten.to.dtype(%x, torch.float64)
%to_1: f32[N, 3] = aten.to.dtype(%to, torch.float32)
%linear: f32[N, 2] = aten.linear(%to_1, %layer_weight, %layer_bias)  # layer
return [%linear]
""",
        )


def test_guards_go_with_the_module_that_holds_them():
    graph = with_asserts(guards=True)
    assert "_guards_fn" in targets(graph)
    EraseAsserts()(graph)
    assert "_guards_fn" not in targets(graph)
    assert "_guards_fn" not in dict(graph.named_modules())
    assert not any("assert" in target for target in targets(graph))


def test_every_kind_of_assert_goes():
    graph = plain()
    x = graph.graph.find_nodes(op="placeholder")[0]
    aten = torch.ops.aten
    with graph.graph.inserting_after(x):
        size = graph.graph.call_function(aten.sym_size.int, (x, 0))
    with graph.graph.inserting_after(size):
        true = graph.graph.call_function(aten.gt.Scalar, (x, 0))
    with graph.graph.inserting_after(true):
        graph.graph.call_function(aten._assert_scalar.default, (size, "a batch"))
        graph.graph.call_function(aten._assert_async.msg, (true, "positive"))
        graph.graph.call_function(aten._assert_async.default, (true,))
        graph.graph.call_function(aten.sym_constrain_range.default, (size,))
        graph.graph.call_function(aten.sym_constrain_range_for_size.default, (size,))
        graph.graph.call_function(torch._assert, (size, "a batch"))
    EraseAsserts()(graph)
    assert targets(graph) == targets(plain())  # what only the asserts read is gone too


def test_computes_the_same():
    graph = with_asserts()
    before = outputs(graph, (3,))
    EraseAsserts()(graph)
    assert torch.equal(outputs(graph, (3,)), before)


def test_lets_the_graph_change_its_precision():
    graph = with_asserts()
    EraseAsserts()(graph)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.to.dtype):
        node.update_arg(1, torch.float64)
    graph.double().recompile()
    assert graph(torch.ones(2, 3).double()).dtype == torch.float64


def test_twice_changes_nothing_more():
    graph = with_asserts(guards=True)
    EraseAsserts()(graph)
    before = snapshot(graph)
    assert not EraseAsserts()(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    graph = with_asserts()
    assert EraseAsserts.in_place
    assert EraseAsserts()(graph).graph_module is graph
