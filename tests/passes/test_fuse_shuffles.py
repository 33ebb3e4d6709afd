import pytest
import torch
from expecttest import TestCase
from networks import traced
from small_graphs import Calls, assert_same, exported, snapshot, targets
from torch import nn

import vibfx
from vibfx.inputs import random_inputs
from vibfx.passes import Functionalize, FuseShuffles

aten = torch.ops.aten


def shuffled(groups=2, channels=6):
    """A channel shuffle as it is written everywhere."""

    def forward(net, x):
        n, _, h, w = x.shape
        y = net.a(x)
        y = y.view(n, groups, channels // groups, h, w).transpose(1, 2).reshape(n, channels, h, w)
        return net.b(y)

    return Calls(forward, a=nn.Conv2d(2, channels, 1), b=nn.Conv2d(channels, 3, 1))


def unfused(model, *shape):
    """The graph before the pass, in shapes of which the batch is symbolic."""
    graph = exported(model, torch.randn(2, *shape))
    return Functionalize()(graph).graph_module


class Golden(TestCase):
    def test_before_and_after(self):
        module = unfused(shuffled(), 2, 3, 3)
        moves = [t for t in targets(module) if "conv" not in t and "sym_size" not in t]
        self.assertExpectedInline(
            str(moves), """['aten.view.default', 'aten.transpose.int', 'aten.reshape.default']"""
        )
        result = FuseShuffles()(module)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%a_weight: f32[6, 2, 1, 1] = attribute a.weight
%a_bias: f32[6] = attribute a.bias
%b_weight: f32[3, 6, 1, 1] = attribute b.weight
%b_bias: f32[3] = attribute b.bias
%x: f32[N, 2, 3, 3] = input
%conv2d: f32[N, 6, 3, 3] = aten.conv2d(%x, %a_weight, %a_bias)  # a
%shuffle_0: i64[6] = attribute shuffle_0
%index_select_default: f32[N, 6, 3, 3] = aten.index_select(%conv2d, 1, %shuffle_0)
%conv2d_1: f32[N, 3, 3, 3] = aten.conv2d(%index_select_default, %b_weight, %b_bias)  # b
return [%conv2d_1]
""",
        )


def tables(module):
    gathers = module.graph.find_nodes(op="call_function", target=aten.index_select.default)
    return [module.get_buffer(node.args[2].target).tolist() for node in gathers]


@pytest.mark.parametrize("groups", [2, 3])
def test_the_table_is_that_of_the_shuffle(groups):
    module = traced(shuffled(groups), (2, 3, 3))
    expected = torch.arange(6).view(groups, 6 // groups).t().flatten().tolist()
    assert tables(module) == [expected]


def test_computes_the_same():
    model = shuffled().eval()
    module = traced(model, (2, 3, 3))
    for batch in (1, 5):
        (x,) = random_inputs(module, batch, torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(module(x), model(x))


def test_a_shuffled_graph_can_be_cut_channel_by_channel():
    coupling = vibfx.analyze(traced(shuffled(), (2, 3, 3)))
    assert coupling.units == 6


def kept_as_it_is(forward, shape, **parts):
    module = traced(Calls(forward, **parts), shape)
    assert tables(module) == []


def test_refuses_what_permutes_two_dimensions():
    def forward(net, x):
        y = net.a(x).view(-1, 2, 2, 4).transpose(1, 2)
        return net.b(y.transpose(2, 3).reshape(-1, 4, 4))

    kept_as_it_is(forward, (3, 4), a=nn.Conv1d(3, 4, 1), b=nn.Conv1d(4, 2, 1))


def test_refuses_what_only_regroups():
    """There and back again moves nothing, so there is nothing to gather."""

    def forward(net, x):
        return net.b(net.a(x).view(-1, 2, 3).reshape(-1, 6))

    kept_as_it_is(forward, (3,), a=nn.Linear(3, 6), b=nn.Linear(6, 2))


def test_refuses_what_is_read_in_between():
    def forward(net, x):
        y = net.a(x).view(-1, 2, 3).transpose(1, 2)
        return net.b(y.reshape(-1, 6)), y

    kept_as_it_is(forward, (3,), a=nn.Linear(3, 6), b=nn.Linear(6, 2))


def test_twice_changes_nothing_more():
    module = traced(shuffled(), (2, 3, 3))
    before = snapshot(module)
    assert not FuseShuffles()(module).modified
    assert_same(before, snapshot(module))


def test_works_in_place_as_the_clean_ups_of_tracing_do():
    module = unfused(shuffled(), 2, 3, 3)
    assert FuseShuffles.in_place
    assert FuseShuffles()(module).graph_module is module
