import pytest
import torch
from expecttest import TestCase
from small_graphs import Calls, assert_same, exported, outputs, plain, snapshot, targets
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.errors import TraceError
from vibfx.passes import Functionalize


def writes(self, x):
    """Later readers of ``y`` read what was written last."""
    y = self.layer(x)
    z = y * 2
    y.relu_()
    y += z
    return y - z


def graph_of(forward, **parts):
    torch.manual_seed(0)
    model = Calls(forward, layer=nn.Linear(3, 4), **parts)
    return model, exported(model, torch.ones(2, 3))


class Golden(TestCase):
    def test_before_and_after(self):
        _, graph = graph_of(writes)
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[4, 3] = attribute layer.weight
%layer_bias: f32[4] = attribute layer.bias
%x: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%x, %layer_weight, %layer_bias)  # layer
%mul: f32[N, 4] = aten.mul.Tensor(%linear, 2)
%relu_: f32[N, 4] = aten.relu_(%linear)
%add_: f32[N, 4] = aten.add_.Tensor(%relu_, %mul)
%sub: f32[N, 4] = aten.sub.Tensor(%add_, %mul)
return [%sub]
""",
        )
        assert Functionalize()(graph).modified
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%layer_weight: f32[4, 3] = attribute layer.weight
%layer_bias: f32[4] = attribute layer.bias
%x: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%x, %layer_weight, %layer_bias)  # layer
%mul: f32[N, 4] = aten.mul.Tensor(%linear, 2)
%relu_: f32[N, 4] = aten.relu(%linear)
%add_: f32[N, 4] = aten.add.Tensor(%relu_, %mul)
%sub: f32[N, 4] = aten.sub.Tensor(%add_, %mul)
return [%sub]
""",
        )


def view_before(self, x):
    """The view is made before the write and read before it."""
    y = self.layer(x)
    total = y.view(-1, 2).sum(1).view(-1, 2)
    return F.hardtanh_(y, -0.5, 0.5)[:, :2] + total


def view_after(self, x):
    y = self.layer(x)
    return torch.sigmoid_(y).view(-1, 2, 2).sum(1)


def write_to_last_view(self, x):
    """The base is never read again."""
    y = self.layer(x).view(-1, 2, 2)
    return y.mul_(3.0).sum(2)


def written_input(self, x):
    x = x.add_(1.0)
    return self.layer(x)


def filled(self, x):
    y = self.layer(x)
    return y + torch.zeros_like(y).fill_(0.25)


def inplace_modules(self, x):
    return self.act(self.layer(x))


@pytest.mark.parametrize(
    "forward", [writes, view_before, view_after, write_to_last_view, written_input, filled]
)
def test_computes_the_same(forward):
    model, graph = graph_of(forward)
    Functionalize()(graph)
    assert not any(target.split(".")[1].endswith("_") for target in targets(graph))
    for batch in (1, 2, 7):
        assert torch.equal(outputs(graph, (3,), batch), outputs(model, (3,), batch))


@pytest.mark.parametrize("act", [nn.ReLU(True), nn.ReLU6(True), nn.SiLU(True), nn.Hardswish(True)])
def test_modules_that_write_in_place(act):
    model, graph = graph_of(inplace_modules, act=act)
    Functionalize()(graph)
    assert not any(target.split(".")[1].endswith("_") for target in targets(graph))
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_what_is_handed_to_the_graph_is_not_written_to():
    _, graph = graph_of(written_input)
    Functionalize()(graph)
    x = torch.zeros(2, 3)
    graph(x)
    assert torch.equal(x, torch.zeros(2, 3))


def test_refuses_a_write_through_a_view_that_nothing_puts_back():
    def forward(self, x):
        y = self.layer(x).unsqueeze(1)
        y.expand(-1, 1, -1).relu_()
        return y

    _, graph = graph_of(forward)
    with pytest.raises(TraceError, match=r"writes through aten.expand.default to memory") as caught:
        Functionalize()(graph)
    assert caught.value.where.startswith("relu_")
    assert caught.value.hint == ("Write the result to a new tensor in the model's forward instead.")
    assert caught.value.__notes__ == ["in pass functionalize"]


def test_refuses_a_write_to_a_buffer():
    def forward(self, x):
        self.count.add_(1.0)
        return self.layer(x)

    _, graph = graph_of(forward, count=nn.Buffer(torch.zeros(1)))
    with pytest.raises(TraceError, match=r"aten.add_.Tensor writes to the .* buffer count"):
        Functionalize()(graph)


def test_refuses_an_op_that_has_no_other_form():
    def forward(self, x):
        y = self.layer(x)
        torch.mul(y, 2.0, out=y)
        return y

    model = Calls(forward, layer=nn.Linear(3, 4)).requires_grad_(False)
    graph = exported(model, torch.ones(2, 3))
    with pytest.raises(TraceError, match=r"aten.mul.out is an op that writes to its input"):
        Functionalize()(graph)


def test_twice_changes_nothing_more():
    _, graph = graph_of(writes)
    Functionalize()(graph)
    before = snapshot(graph)
    assert not Functionalize()(graph).modified
    assert_same(before, snapshot(graph))


def test_changes_nothing_where_nothing_is_written():
    graph = plain()
    before = snapshot(graph)
    assert not Functionalize()(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    _, graph = graph_of(writes)
    assert Functionalize.in_place
    assert Functionalize()(graph).graph_module is graph
