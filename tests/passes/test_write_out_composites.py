import pytest
import torch
from expecttest import TestCase
from networks import gated, randomize, shut_half, traced
from small_graphs import Calls, exported
from torch import nn

import vibfx
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels, WriteOutComposites

aten = torch.ops.aten


def written_out(forward, *shape, **parts):
    module = exported(Calls(forward, **parts), torch.randn(3, *shape))
    before = {node.target for node in module.graph.nodes}
    result = WriteOutComposites()(module)
    after = [node.target for node in module.graph.nodes if node.op == "call_function"]
    return result, before, after


class Golden(TestCase):
    def test_before_and_after(self):
        result, before, _ = written_out(
            lambda net, x: torch.hstack([net.a(x), torch.moveaxis(x, 0, 0)]), 4, a=nn.Linear(4, 2)
        )
        assert {aten.hstack.default, aten.moveaxis.int} <= before
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%a_weight: f32[2, 4] = attribute a.weight
%a_bias: f32[2] = attribute a.bias
%x: f32[N, 4] = input
%linear: f32[N, 2] = aten.linear(%x, %a_weight, %a_bias)  # a
%permute: f32[N, 4] = aten.permute(%x, [0, 1])
%cat: f32[N, 6] = aten.cat([%linear, %permute], 1)
return [%cat]
""",
        )


def cells(kind):
    def forward(net, x):
        h = x.new_zeros(x.shape[0], 8)
        state = (h, h) if kind is nn.LSTMCell else h
        for step in range(3):
            state = net.cell(x[:, step], state)
        return net.head(state[0] if kind is nn.LSTMCell else state)

    return Calls(forward, cell=kind(6, 8), head=nn.Linear(8, 5)), (4, 6)


def branches(forward):
    return Calls(forward, a=nn.Linear(6, 8), b=nn.Linear(6, 8), head=nn.Linear(16, 5)), (6,)


NETWORKS = {
    "lstm cell": cells(nn.LSTMCell),
    "gru cell": cells(nn.GRUCell),
    "rnn cell": cells(nn.RNNCell),
    "hstack": branches(lambda s, x: s.head(torch.hstack([s.a(x).relu(), s.b(x).tanh()]))),
    "vstack": branches(
        lambda s, x: s.head(torch.cat(torch.vstack([s.a(x), s.b(x)]).relu().chunk(2), 1))
    ),
    "hsplit and multiply": branches(
        lambda s, x: s.head(
            torch.cat([*torch.hsplit(s.a(x).relu(), 2), s.b(x).tanh().multiply(2.0)], 1)
        )
    ),
    "tensor_split at indices": branches(
        lambda s, x: s.head(
            torch.cat([*torch.tensor_split(s.a(x).relu(), (2, 5), 1), s.b(x).tanh()], 1)
        )
    ),
    "cosine similarity": branches(
        lambda s, x: (
            s.head(torch.cat([s.a(x).relu(), s.b(x).tanh()], 1))
            + torch.cosine_similarity(s.a(x).relu(), s.b(x).tanh()).unsqueeze(1)
        )
    ),
    "moveaxis and mT": branches(
        lambda s, x: s.head(
            torch.cat(
                [torch.moveaxis(s.a(x).relu(), 0, 1).mT, s.b(x).tanh().ravel().view(-1, 8)], 1
            )
        )
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_composites_lose_channels(name):
    model, shape = NETWORKS[name]
    module = gated(traced(model.eval(), shape))
    randomize(module, shape)
    shut_half(module)
    to_dtype(module, torch.float64)
    plan = vibfx.plan(module)
    assert plan.removed_units >= 4
    small = PruneChannels(plan)(module).graph_module
    assert vibfx.verify(module, small).error < 1e-12
    assert vibfx.verify(module, FoldGates()(small).graph_module).error < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_values_stay(name):
    torch.manual_seed(0)
    model, shape = NETWORKS[name]
    for batch in (1, 3, 7):
        x = torch.randn(batch, *shape)
        torch.testing.assert_close(traced(model.eval(), shape)(x), model(x))


def test_what_has_a_rule_stays_whole():
    result, _, after = written_out(
        lambda net, x: torch.softmax(net.a(x) @ net.a(x).T, -1), 4, a=nn.Linear(4, 2)
    )
    assert not result.modified
    assert aten.linear.default in after
    assert aten.matmul.default in after


def test_what_is_written_with_an_op_without_a_rule_stays():
    """A bilinear layer calls a kernel of its own."""
    result, before, after = written_out(lambda net, x: net.a(x, x), 4, a=nn.Bilinear(4, 4, 2))
    assert not result.modified
    assert aten.bilinear.default in before & set(after)


def test_a_kernel_that_cannot_be_followed_stays(caplog):
    """That of a bilinear layer asks for sizes for which a dynamic batch has no number."""
    model = Calls(lambda net, x: net.b(x, net.a(x)), a=nn.Linear(4, 4), b=nn.Bilinear(4, 4, 2))
    graph = traced(model, (4,))
    assert graph.graph.find_nodes(op="call_function", target=aten.bilinear.default)
    (reason,) = {f.reason for f in vibfx.analyze(graph).frozen if f.parameter == "a.bias"}
    assert reason == "goes into aten.bilinear.default, an op without a rule"
    assert not caplog.records


def test_a_kernel_that_bakes_in_the_batch_stays():
    model = Calls(lambda net, x: net.a(torch.kron(x, torch.ones(1, 1))), a=nn.Linear(4, 2))
    graph = traced(model.eval(), (4,))
    assert graph.graph.find_nodes(op="call_function", target=aten.kron.default)
    x = torch.randn(7, 4)
    torch.testing.assert_close(graph(x), model(x))


def test_new_nodes_say_where_they_come_from():
    result, _, _ = written_out(lambda net, x: torch.hstack([net.a(x), x]), 4, a=nn.Linear(4, 2))
    (node,) = result.graph_module.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert "small_graphs.py" in node.meta["stack_trace"]  # where the model's forward stands
    assert node.meta["nn_module_stack"]
    assert [str(dim) for dim in node.meta["val"].shape][1] == "6"
