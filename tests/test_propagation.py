"""Labels through a graph: what gets labels, and what becomes of ops that no rule knows."""

import pytest
import torch
from couplings import Net, Value, case, frozen, rows, units
from torch import nn

from vibfx.labels import Slot, Tagged, varying
from vibfx.propagation import SELECTIONS, propagate


def propagated(net, *shape):
    graph = case(net, *shape).graph
    found = propagate(graph)
    return found, {node.name: node for node in graph.graph.nodes}


def labels_at(found, node):
    """The labels of a node by dimension, taken along the first row, column and so on."""
    (tagged,) = found.tagged(node)
    lines = {}
    for factor in tagged.factors:
        (dim,) = varying(factor)
        index = tuple(slice(None) if d == dim else 0 for d in range(factor.dim()))
        lines[dim] = factor[index].tolist()
    return lines


def chain(second=None, function=torch.relu):
    return Net(
        lambda net, x: net.b(function(net.a(x))),
        a=nn.Conv2d(2, 4, 3),
        b=second or nn.Conv2d(4, 3, 3),
    )


# --- what is labelled ---------------------------------------------------------------------------


def test_kernels_have_no_labels_and_columns_have():
    found, _ = propagated(chain(), 2, 6, 6)
    assert found.space.slots == (
        Slot("a.weight", 0, 1, 4),
        Slot("a.weight", 1, 5, 2),
        Slot("a.bias", 0, 7, 4),
        Slot("b.weight", 0, 11, 3),
        Slot("b.weight", 1, 14, 4),
        Slot("b.bias", 0, 18, 3),
    )


def test_every_dimension_of_another_parameter_has_labels():
    found, _ = propagated(Net(lambda net, x: x + net.v.p, v=Value(1, 2, 3)), 2, 3)
    assert [(slot.parameter, slot.dim, slot.size) for slot in found.space.slots] == [
        ("v.p", 1, 2),
        ("v.p", 2, 3),
    ]


def test_a_dimension_of_one_has_no_labels():
    found, _ = propagated(
        Net(lambda net, x: net.b(net.a(x)), a=nn.Linear(3, 1), b=nn.Linear(1, 2)), 3
    )
    assert [(slot.parameter, slot.dim) for slot in found.space.slots] == [
        ("a.weight", 1),
        ("b.weight", 0),
        ("b.bias", 0),
    ]


def test_what_no_node_reads_has_no_labels():
    found, _ = propagated(
        Net(lambda net, x: net.a(x), a=nn.Linear(3, 2), unread=nn.Linear(3, 4)), 3
    )
    assert {slot.parameter for slot in found.space.slots} == {"a.weight", "a.bias"}


def test_buffers_have_labels_and_counters_have_not():
    net = Net(lambda net, x: net.n(net.a(x)), a=nn.Linear(3, 4), n=nn.BatchNorm1d(4))
    found, _ = propagated(net, 3)
    parameters = {slot.parameter for slot in found.space.slots}
    assert {"n.running_mean", "n.running_var"} < parameters
    assert "n.num_batches_tracked" not in parameters


# --- where labels go ----------------------------------------------------------------------------


def test_a_table_has_labels_where_it_is_noted_as_a_selection():
    table = torch.tensor([2, 0])
    graph = case(Net(lambda net, x: net.a(x[:, table]), a=nn.Linear(2, 3)), 4).graph
    (name,) = (name for name, _ in graph.named_buffers())
    assert not propagate(graph).space.of_parameter(name)
    graph.meta[SELECTIONS] = (name,)
    (slot,) = propagate(graph).space.of_parameter(name)
    assert (slot.dim, slot.size) == (0, 2)


def test_labels_by_node():
    net = chain(nn.Linear(16, 3), lambda y: torch.relu(y).flatten(2))
    found, nodes = propagated(net, 2, 6, 6)
    assert labels_at(found, nodes["x"]) == {}
    assert labels_at(found, nodes["a_weight"]) == {0: [1, 2, 3, 4], 1: [5, 6]}
    for name in ("conv2d", "relu", "flatten"):
        assert labels_at(found, nodes[name]) == {1: [1, 2, 3, 4]}
    assert labels_at(found, nodes["linear"]) == {1: [1, 2, 3, 4], 2: [11, 12, 13]}


def test_shapes_are_those_of_the_traced_batch():
    found, nodes = propagated(chain(), 2, 6, 6)
    for name, shape in (("x", (2, 2, 6, 6)), ("conv2d", (2, 4, 4, 4)), ("a_bias", (4,))):
        (tagged,) = found.tagged(nodes[name])
        assert tagged.shape == shape
        assert tagged.source is nodes[name]
        assert all(factor.shape == shape for factor in tagged.factors)


def test_a_size_is_a_plain_number():
    net = Net(lambda net, x: net.a(x).reshape(x.shape[0], 2, 2), a=nn.Linear(3, 4))
    found, nodes = propagated(net, 3)
    (size,) = (node for node in nodes.values() if "sym_size" in str(node.target))
    assert found.values[size] == 2
    assert found.tagged(size) == []


def test_the_content_of_an_index_is_known():
    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 4)
            self.register_buffer("order", torch.tensor([3, 1, 0, 2]))

        def forward(self, x):
            return self.a(x)[:, self.order]

    found, nodes = propagated(Indexed(), 3)
    (order,) = found.tagged(nodes["order"])
    assert order.value.tolist() == [3, 1, 0, 2]
    assert order.factors == ()


def test_the_model_output_stays():
    found, nodes = propagated(chain(), 2, 6, 6)
    last = found.facts.freezes[-1]
    assert last.labels.tolist() == [11, 12, 13]
    assert last.reason == "the model's output"
    assert last.node is nodes["output"]


# --- ops without a rule -------------------------------------------------------------------------

UNKNOWN = {
    "aten.cummax.default": lambda y: torch.cummax(y, 2)[0],
    "aten.fft_fft.default": lambda y: torch.fft.fft(y).real,
    "aten.tril.default": lambda y: torch.tril(y),
}


@pytest.mark.parametrize("op", UNKNOWN)
def test_an_unknown_op_freezes_what_goes_in(op):
    given = case(chain(function=UNKNOWN[op]), 2, 6, 6)
    assert units(given.found) == set()
    for slot in ("a.weight:0", "a.bias:0"):
        assert frozen(given.found)[slot] == {f"goes into {op}, an op without a rule": 4}


class Triangle(nn.Module):
    def forward(self, x):
        return torch.tril(x)


def test_an_unknown_op_is_named_with_its_place():
    found = case(nn.Sequential(nn.Conv2d(2, 4, 3), Triangle(), nn.Conv2d(4, 3, 3)), 2, 6, 6).found
    (entry,) = (e for e in found.frozen if (e.parameter, e.dim) == ("0.bias", 0))
    line = Triangle.forward.__code__.co_firstlineno + 1
    assert entry.where == f"tril in 1 (test_propagation.py:{line})"


def test_an_unknown_op_labels_nothing_that_comes_out():
    found, nodes = propagated(chain(function=torch.tril), 2, 6, 6)
    assert found.tagged(nodes["tril"]) == [Tagged((2, 4, 4, 4), (), nodes["tril"])]


def test_an_unknown_op_with_several_results():
    def forward(net, x):
        largest, place = torch.cummax(net.a(x), 1)
        return net.b(largest * place)

    given = case(Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2)), 4)
    assert units(given.found) == set()
    reason = "goes into aten.cummax.default, an op without a rule"
    assert frozen(given.found)["a.weight:0"] == {reason: 6}
    (node,) = given.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.cummax.default)
    assert [part.shape for part in given.found.propagation.tagged(node)] == [(2, 6), (2, 6)]


def test_an_unknown_op_on_the_input_harms_nothing():
    net = Net(
        lambda net, x: net.b(torch.relu(net.a(torch.cummax(x, 1)[0]))),
        a=nn.Linear(3, 5),
        b=nn.Linear(5, 2),
    )
    assert units(case(net, 3).found) == rows(5, "a", "> b")
