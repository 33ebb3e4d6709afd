import operator

import pytest
import torch
from networks import gated, traced
from small_graphs import Calls, plain, snapshot
from torch import nn

from vibfx.errors import GraphError
from vibfx.graph import (
    add_buffer,
    check_graph,
    concrete,
    drop_dead_ties,
    drop_unread,
    module_path,
    operands,
    refresh_shapes,
    set_tensor,
    shape_of,
    source_line,
    tensor_at,
    tensor_names,
    to_dtype,
    where,
)

aten = torch.ops.aten


def node(graph, name):
    return next(n for n in graph.graph.nodes if n.name == name)


def broken(change):
    graph = plain()
    change(graph)
    with pytest.raises(GraphError) as caught:
        check_graph(graph)
    return caught.value


def test_a_traced_and_a_gated_graph_keep_the_rules():
    graph = plain()
    check_graph(graph)
    check_graph(gated(graph))


def test_refuses_an_op_that_writes():
    def change(graph):
        node(graph, "relu").target = aten.relu_.default

    error = broken(change)
    assert error.what == "aten.relu_.default writes to its input"
    assert error.where.startswith("relu (small_graphs.py:")


def test_refuses_a_function_that_is_no_aten_op():
    def change(graph):
        node(graph, "relu").target = torch.relu

    assert broken(change).what.endswith("is no ATen op")


def test_refuses_a_module_other_than_a_gate():
    def change(graph):
        graph.add_submodule("act", nn.ReLU())
        relu = node(graph, "relu")
        with graph.graph.inserting_before(relu):
            relu.replace_all_uses_with(graph.graph.call_module("act", relu.args))

    assert broken(change).what == "a module call other than a gate"


def test_refuses_a_method_call():
    def change(graph):
        relu = node(graph, "relu")
        with graph.graph.inserting_before(relu):
            relu.replace_all_uses_with(graph.graph.call_method("relu", relu.args))

    assert broken(change).what == "a method call; graphs here hold ATen ops"


def test_refuses_a_node_without_a_shape():
    error = broken(lambda graph: node(graph, "relu").meta.pop("val"))
    assert error.what == "a node without a known shape"
    assert error.where.startswith("relu")


def test_refuses_an_attribute_that_is_not_there():
    def change(graph):
        del graph.get_submodule("conv").weight

    assert "not well formed" in broken(change).what


def test_refuses_an_attribute_that_is_no_tensor():
    def change(graph):
        graph.get_submodule("conv").weight = None
        graph.get_submodule("conv").__dict__["weight"] = 3.0
        del graph.get_submodule("conv")._parameters["weight"]

    assert broken(change).what == "conv.weight is a float, not a tensor"


def test_refuses_nodes_out_of_order():
    def change(graph):
        node(graph, "conv2d").prepend(node(graph, "linear"))

    assert broken(change).what.startswith("the graph is not well formed: ")


def test_refuses_a_graph_without_an_output():
    def change(graph):
        graph.graph.erase_node(node(graph, "output"))

    assert broken(change).what == "a graph has one output node, this one has 0"


def test_arithmetic_on_sizes_is_allowed():
    graph = traced(Calls(lambda s, x: s.f(x.view(x.shape[0] * 2, 2)), f=nn.Linear(2, 2)), (4,))
    assert graph.graph.find_nodes(op="call_function", target=operator.mul)
    check_graph(graph)


def test_shapes_at_the_traced_batch_size():
    graph = plain()
    conv = node(graph, "conv2d")
    assert shape_of(conv) == (2, 4, 5, 5)
    batch = conv.meta["val"].shape[0]
    assert isinstance(batch, torch.SymInt)
    assert concrete(batch) == 2
    assert concrete(7) == 7
    assert shape_of(node(graph, "output")) == ()


def test_set_tensor_keeps_the_kind():
    graph = plain()
    graph.get_parameter("conv.bias").requires_grad_(False)
    set_tensor(graph, "conv.weight", torch.zeros(1, 1, 3, 3))
    set_tensor(graph, "conv.bias", torch.zeros(1))
    set_tensor(graph, "norm.running_mean", torch.zeros(1))
    weight, bias = graph.get_parameter("conv.weight"), graph.get_parameter("conv.bias")
    assert (weight.shape, weight.requires_grad, bias.requires_grad) == ((1, 1, 3, 3), True, False)
    assert "norm.running_mean" in dict(graph.named_buffers())
    assert torch.equal(tensor_at(graph, "norm.running_mean"), torch.zeros(1))


def test_add_buffer_takes_a_free_name():
    graph = plain()
    assert add_buffer(graph, "constant", torch.ones(1)) == "constant_0"
    assert add_buffer(graph, "constant", torch.zeros(2)) == "constant_1"
    graph.add_submodule("constant_2", nn.Module())
    assert add_buffer(graph, "constant", torch.zeros(3)) == "constant_3"
    assert graph.get_buffer("constant_0").tolist() == [1.0]
    assert graph.get_buffer("constant_3").shape == (3,)


def test_tensor_names_leave_out_what_nothing_reads():
    names = dict(tensor_names(plain()))
    assert list(names) == [
        *("conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"),
        *("norm.running_mean", "norm.running_var"),
    ]  # and not norm.num_batches_tracked


def test_tensor_names_hold_a_tied_weight_once_and_the_gates():
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.b(torch.relu(s.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    model.b.weight = model.a.weight
    names = [name for name, _ in tensor_names(traced(model, (3,)))]
    assert names == ["a.bias", "b.weight", "b.bias"]  # and not a.weight
    names = [name for name, _ in tensor_names(gated(plain()))]
    assert names[-2:] == ["gates.conv.mu", "gates.conv.log_sigma2"]


def test_a_place_is_told_by_node_module_and_line():
    graph = plain()
    conv = node(graph, "conv2d")
    assert module_path(conv) == "conv"
    assert module_path(node(graph, "relu")) == ""
    name, line = source_line(node(graph, "relu")).split(":")
    assert name == "small_graphs.py"
    assert int(line) > 0
    assert where(conv).startswith("conv2d in conv (")
    assert where(node(graph, "conv_weight")) == "conv_weight"


def test_operands_in_order_and_as_often_as_passed():
    def forward(self, x):
        y = self.layer(x)
        return torch.cat([y, x, y], 1)

    graph = traced(Calls(forward, layer=nn.Linear(3, 3)), (3,))
    assert [n.name for n in operands(node(graph, "cat"))] == ["linear", "x", "linear"]
    assert [n.name for n in operands(node(graph, "linear"))] == ["x", "layer_weight", "layer_bias"]


def test_refresh_shapes_follows_sliced_weights():
    graph = plain()
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias"):
        set_tensor(graph, name, tensor_at(graph, name).detach()[:3])
    for name in ("norm.running_mean", "norm.running_var"):
        set_tensor(graph, name, tensor_at(graph, name)[:3])
    set_tensor(graph, "head.weight", tensor_at(graph, "head.weight").detach()[:, :3])
    refresh_shapes(graph)
    assert shape_of(node(graph, "conv2d")) == (2, 3, 5, 5)
    assert shape_of(node(graph, "mean")) == (2, 3)
    assert isinstance(node(graph, "mean").meta["val"].shape[0], torch.SymInt)


def test_refresh_shapes_follows_the_precision():
    graph = plain().double()
    refresh_shapes(graph)
    assert node(graph, "linear").meta["val"].dtype == torch.float64


def test_to_dtype_turns_casts_too():
    torch.manual_seed(0)
    graph = traced(Calls(lambda s, x: s.f(x).to(torch.float32) + 1, f=nn.Linear(3, 2)), (3,))
    assert to_dtype(graph, torch.float64) is graph
    assert graph(torch.ones(2, 3).double()).dtype == torch.float64
    to_dtype(graph, torch.float32)
    assert graph(torch.ones(2, 3)).dtype == torch.float32


def test_to_dtype_leaves_whole_numbers_alone():
    def forward(self, x):
        return self.f(x) + x.to(torch.int64).sum(1, keepdim=True)

    graph = to_dtype(traced(Calls(forward, f=nn.Linear(3, 2)), (3,)), torch.float64)
    targets = [n.args[1] for n in graph.graph.nodes if n.target is aten.to.dtype]
    assert targets == [torch.int64]


def test_shapes_of_recurrent_layers_are_worked_out_with_a_symbolic_batch():
    model = Calls(lambda s, x: s.b(s.a(x)[0]), a=nn.LSTM(3, 4, batch_first=True), b=nn.Linear(4, 2))
    graph = traced(model, (5, 3)).double()
    refresh_shapes(graph)
    (node,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert node.meta["val"].dtype is torch.float64
    assert isinstance(node.meta["val"].shape[0], torch.SymInt)


@pytest.mark.parametrize("relu", [torch.relu, torch.relu_])
def test_the_unread_name_of_a_tied_weight_is_dropped(relu):
    """Else the old weight would stay, and be counted, once a rewrite replaces the one in use."""
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.b(relu(s.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    model.b.weight = model.a.weight
    graph = traced(model, (3,))
    assert [name for name, _ in graph.named_parameters()] == ["a.bias", "b.weight", "b.bias"]
    assert [n.target for n in graph.graph.find_nodes(op="get_attr")] == [
        *("a.bias", "b.weight", "b.bias"),
    ]
    before = snapshot(graph)
    drop_dead_ties(graph)
    assert snapshot(graph)[0] == before[0]


def test_what_is_unread_but_not_tied_stays():
    graph = plain()
    drop_dead_ties(graph)
    assert "norm.num_batches_tracked" in graph.state_dict()


def test_parameters_that_no_node_reads_are_dropped():
    graph = gated(plain())
    before = dict(graph.named_parameters())
    drop_unread(graph)
    assert dict(graph.named_parameters()).keys() == before.keys()  # the gates' own among them
    graph.register_parameter("spare", nn.Parameter(torch.ones(3)))
    graph.get_submodule("conv").register_parameter("spare", nn.Parameter(torch.ones(3)))
    drop_unread(graph)
    assert dict(graph.named_parameters()).keys() == before.keys()
