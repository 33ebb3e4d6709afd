import pytest
import torch
from expecttest import TestCase
from networks import traced
from small_graphs import Calls, assert_same, exported, snapshot
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.passes import Functionalize, WriteDefaults

aten = torch.ops.aten


def unwritten(forward, *shape, **parts):
    return Functionalize()(exported(Calls(forward, **parts), torch.randn(2, *shape))).graph_module


def node_of(module, target):
    (node,) = module.graph.find_nodes(op="call_function", target=target)
    return node


def attend(net, x):
    q = net.a(x).view(-1, 1, 5, 4)
    return F.scaled_dot_product_attention(q, q, q)


class Golden(TestCase):
    def test_before_and_after(self):
        module = unwritten(
            lambda net, x: F.rms_norm(x, (4,), net.norm.weight), 4, norm=nn.RMSNorm(4)
        )
        self.assertExpectedInline(
            vibfx.format_graph(module),
            """\
%norm_weight: f32[4] = attribute norm.weight
%x: f32[N, 4] = input
%rms_norm: f32[N, 4] = aten.rms_norm(%x, [4], %norm_weight)
return [%rms_norm]
""",
        )
        result = WriteDefaults()(module)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%norm_weight: f32[4] = attribute norm.weight
%x: f32[N, 4] = input
%rms_norm: f32[N, 4] = aten.rms_norm(%x, [4], %norm_weight, 1.1920928955078125e-07)
return [%rms_norm]
""",
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_eps_of_an_rms_norm_is_that_of_its_precision(dtype):
    net = Calls(lambda net, x: F.rms_norm(x, (4,)))
    module = Functionalize()(exported(net, torch.randn(2, 4, dtype=dtype))).graph_module
    WriteDefaults()(module)
    node = node_of(module, aten.rms_norm.default)
    assert node.args[2:] == (None, torch.finfo(dtype).eps)


def test_an_eps_that_is_given_stays():
    module = unwritten(lambda net, x: F.rms_norm(x, (4,), eps=0.25), 4)
    assert not WriteDefaults()(module).modified
    assert node_of(module, aten.rms_norm.default).args[3] == 0.25


def test_the_scale_of_an_attention_is_that_of_its_width():
    module = unwritten(attend, 5, 3, a=nn.Linear(3, 4))
    assert WriteDefaults()(module).modified
    assert node_of(module, aten.scaled_dot_product_attention.default).kwargs["scale"] == 0.5


def test_a_scale_that_is_given_stays():
    def forward(net, x):
        q = x.view(-1, 1, 5, 4)
        return F.scaled_dot_product_attention(q, q, q, scale=3.0)

    module = unwritten(forward, 5, 4)
    assert not WriteDefaults()(module).modified
    assert node_of(module, aten.scaled_dot_product_attention.default).kwargs["scale"] == 3.0


def test_squeeze_names_the_dimensions_of_size_one():
    module = unwritten(lambda net, x: torch.squeeze(x), 1, 4, 1)
    assert WriteDefaults()(module).modified
    assert node_of(module, aten.squeeze.dims).args[1] == [1, 3]


def test_the_bounds_of_a_clamp_are_of_one_type():
    module = unwritten(lambda net, x: x.clamp(-1, 0.5), 4)
    assert WriteDefaults()(module).modified
    bounds = node_of(module, aten.clamp.default).args[1:]
    assert [(bound, type(bound)) for bound in bounds] == [(-1.0, float), (0.5, float)]
    for same in (lambda net, x: x.clamp(-1, 2), lambda net, x: x.clamp(max=0.5)):
        assert not WriteDefaults()(unwritten(same, 4)).modified


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        (lambda net, x: F.rms_norm(x, (4,)), (4,)),
        (lambda net, x: torch.squeeze(net.a(x)), (1, 4)),
        (attend, (5, 4)),
    ],
    ids=["rms_norm", "squeeze", "attention"],
)
def test_computes_the_same(forward, shape):
    net = Calls(forward, a=nn.Linear(4, 4)).eval()
    module = traced(net, shape)
    x = torch.randn(3, *shape)
    with torch.no_grad():
        assert torch.allclose(module(x), net(x), atol=1e-6)


def test_twice_changes_nothing_more():
    module = unwritten(attend, 5, 3, a=nn.Linear(3, 4))
    WriteDefaults()(module)
    before = snapshot(module)
    assert not WriteDefaults()(module).modified
    assert_same(before, snapshot(module))


def test_works_in_place_as_the_clean_ups_of_tracing_do():
    module = unwritten(attend, 5, 3, a=nn.Linear(3, 4))
    assert WriteDefaults.in_place
    assert WriteDefaults()(module).graph_module is module
