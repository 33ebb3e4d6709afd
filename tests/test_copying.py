import torch
from networks import gated, traced
from small_graphs import Calls, plain, snapshot
from torch import nn

from vibfx.copying import copy_graph_module, own_tensors, share_graph_module
from vibfx.gates import gates_of
from vibfx.graph import set_tensor


def test_a_copy_shares_nothing_but_keeps_ties():
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.b(torch.relu(s.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    model.b.weight = model.a.weight
    graph = traced(model, (3,))
    before = snapshot(graph)
    other = copy_graph_module(graph)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    after = snapshot(graph)
    assert before[0] == after[0]
    assert all(torch.equal(value, after[1][name]) for name, value in before[1].items())
    assert len(list(other.parameters())) == len(list(graph.parameters()))
    gate_copy = copy_graph_module(gated(plain()))
    assert list(gates_of(gate_copy)) == ["gates.conv"]


def test_every_tensor_of_a_copy_is_its_own():
    graph = gated(plain())
    other = copy_graph_module(graph)
    pairs = zip(graph.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(a.data_ptr() != b.data_ptr() and torch.equal(a, b) for a, b in pairs)
    assert [p.requires_grad for p in graph.parameters()] == [
        p.requires_grad for p in other.parameters()
    ]


def test_a_copy_keeps_what_nothing_reads_and_what_is_not_saved():
    graph = plain()
    graph.register_buffer("table", torch.ones(2), persistent=False)
    graph.conv.register_buffer("deep", torch.ones(2), persistent=False)
    other = copy_graph_module(graph)
    assert list(other.state_dict()) == list(graph.state_dict())
    assert "norm.num_batches_tracked" in other.state_dict()
    assert "deep" in dict(other.conv.named_buffers())


def test_only_what_is_still_shared_is_copied():
    graph = plain()
    other = share_graph_module(graph)
    assert other.conv.weight is graph.conv.weight
    fresh = torch.zeros_like(graph.conv.weight)
    set_tensor(other, "conv.weight", fresh)
    set_tensor(other, "conv.bias", graph.conv.bias.detach().view(-1))
    own_tensors(other, graph)
    assert other.conv.weight.data_ptr() == fresh.data_ptr()
    assert other.conv.bias.data_ptr() != graph.conv.bias.data_ptr()  # a view is shared as well


def test_a_copy_keeps_frozen_parameters_and_the_mode():
    graph = plain().eval()
    graph.conv.weight.requires_grad_(False)
    other = copy_graph_module(graph)
    assert not other.conv.weight.requires_grad
    assert other.conv.bias.requires_grad
    assert not any(module.training for module in other.modules())
