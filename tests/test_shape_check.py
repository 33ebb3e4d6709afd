"""The check of noted shapes: what it finds, and what it leaves alone."""

import pytest
import torch
from networks import Residual, gated, traced
from small_graphs import Calls, plain, snapshot
from torch import nn

from vibfx.errors import GraphError
from vibfx.graph import set_tensor
from vibfx.shape_check import check_shapes

aten = torch.ops.aten


def node_of(module, target):
    return module.graph.find_nodes(op="call_function", target=target)[0]


@pytest.mark.parametrize("with_gates", [False, True])
def test_a_traced_graph_passes_and_stays_as_it_is(with_gates):
    module = traced(Residual(4), (1, 6, 6))
    module = gated(module) if with_gates else module
    before = snapshot(module)[0]
    check_shapes(module)
    assert snapshot(module)[0] == before


def test_a_parameter_of_another_size_is_found_at_the_op_that_reads_it():
    module = plain()
    set_tensor(module, "head.weight", torch.zeros(3, 5))
    with pytest.raises(
        GraphError, match=r"aten\.linear\.default does not take its inputs"
    ) as error:
        check_shapes(module)
    assert error.value.where.startswith("linear")


@pytest.mark.parametrize("name", ["norm.weight", "norm.bias", "norm.running_mean"])
def test_a_batch_norm_with_a_vector_of_another_length_is_found(name):
    module = plain()
    set_tensor(module, name, torch.ones(3))
    with pytest.raises(GraphError, match="a vector of 3 entries for 4 channels"):
        check_shapes(module)


@pytest.mark.parametrize("bias", [2, 7])
def test_a_linear_layer_with_a_bias_of_another_length_is_found(bias):
    module = plain()
    set_tensor(module, "head.bias", torch.ones(bias))
    with pytest.raises(GraphError, match=r"aten\.linear\.default does not take its inputs"):
        check_shapes(module)


def test_activation_functions_keep_the_shape_whether_tagged_or_not():
    module = traced(nn.Sequential(nn.Linear(4, 6), nn.Hardswish(), nn.PReLU(6)), (4,))
    check_shapes(module)
    node = node_of(module, aten.hardswish.default)
    node.meta["val"] = node.meta["val"].new_empty((2, 5))
    with pytest.raises(GraphError, match=r"gives shape \(2, 6\) where \(2, 5\)"):
        check_shapes(module)


def test_a_noted_shape_that_is_not_the_real_one_is_found():
    module = plain()
    relu = node_of(module, aten.relu.default)
    relu.meta["val"] = relu.meta["val"].new_empty((*relu.meta["val"].shape[:1], 7, 5, 5))
    with pytest.raises(
        GraphError, match=r"gives shape \(2, 4, 5, 5\) where \(2, 7, 5, 5\)"
    ) as error:
        check_shapes(module)
    assert error.value.where.startswith("relu")
    assert "literal sizes" in error.value.hint


def test_a_literal_size_that_does_not_fit_is_found():
    model = Calls(lambda net, x: net.a(x).view(-1, 2, 3), a=nn.Linear(4, 6))
    module = traced(model, (4,))
    check_shapes(module)
    view = node_of(module, aten.view.default)
    view.update_arg(1, [-1, 2, 4])
    with pytest.raises(GraphError, match=r"aten\.view\.default"):
        check_shapes(module)


def test_precision_does_not_matter():
    """Parameters turned to float64 meet inputs noted as float32, and casts to either."""
    model = Calls(
        lambda net, x: net.b(net.a(x).to(torch.float64).to(torch.float32)),
        a=nn.Conv1d(2, 4, 1),
        b=nn.Conv1d(4, 2, 1),
    )
    module = traced(model, (2, 5))
    for dtype in (torch.float64, torch.float32):
        check_shapes(module.to(dtype))


def test_several_results_and_integers_pass():
    def forward(net, x):
        value, place = torch.max(net.a(x), 1)
        return value * place, torch.topk(net.a(x), 2)

    check_shapes(traced(Calls(forward, a=nn.Linear(3, 4)), (3,)))
