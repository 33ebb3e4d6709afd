"""Writes to memory that another tensor, read later, shares."""

import pytest
import torch
from small_graphs import Calls, exported, targets
from torch import nn

from vibfx.graph import check_graph
from vibfx.passes import EraseAsserts, FoldConstants, Functionalize
from vibfx.passes.views import base_of, may_be_view, views_of


def through_view(y):
    y.view(-1).relu_()
    return y


def base_of_view(y):
    z = y.view(-1, 2, 4)
    y.relu_()
    return z.sum(1)


def slices(y):
    y[:, 0] = 0.0
    y[:, ::2] = y[:, 1::2]
    y[:, -2:] += 1
    return y


def roll(y):
    out = torch.zeros_like(y)
    out[:, 1:] = y[:, :-1]
    out[:, 0] = y[:, -1]
    return out


def chain(y):
    z = y.view(-1, 2, 4)
    w = z.transpose(1, 2)
    w[:, 1] += 3
    w[:, 2:].mul_(2)
    z[:, 0].relu_()
    return w + z.permute(0, 2, 1), y


def permuted(y):
    z = y.view(-1, 2, 2, 2)
    z.permute(0, 3, 1, 2)[:, 1].neg_()
    z.movedim(1, 3).narrow(1, 0, 1).zero_()
    return y, z


def index_put(y):
    y[:, [1, 3]] = 1.0
    y[y > 0.3] = -2.0
    y.view(-1, 2, 4)[:, 1][:, [0, 2]] = 5.0
    return y


def to_and_fro(y):
    a = y[:, :4]
    a.relu_()
    y.mul_(2)
    a.add_(1)
    y[:, 2:6].neg_()
    return y, a


def result_of_a_write(y):
    a = y[:, :4].relu_()
    a[:, 0] = 5
    return y + 1, a


def read_in_between(y):
    part = y[:, 1:3]
    kept = part * 1
    part.mul_(0)
    return kept + part, y


def views_that_copy(y):
    same, copied = y.contiguous(), y.t().contiguous()
    flat, other = y.reshape(-1, 4), y.t().reshape(-1)
    y.relu_()
    return same, copied, flat, other, y.to(torch.float32), y.detach()


def diagonal(y):
    z = y[:, None] * y[:, :, None]
    z.diagonal(0, 1, 2).fill_(0)
    return z


def squeezed(y):
    z = y.unsqueeze(1)
    z.squeeze(1)[:, 1] = 9
    z.squeeze_(1)
    return y, z


def copied_whole(y):
    z = torch.empty_like(y)
    z[:, :4].copy_(y[:, 4:])
    z[:, 4:].copy_(torch.ones(4))
    return z


def lifted(y):
    t = torch.tensor([1.0, 2.0])
    t[0] = 3.0
    return y * t[0]


def expanded_reader(y):
    z = y[:, :1].expand(-1, 4)
    y.relu_()
    return z


WRITES = [
    *(through_view, base_of_view, slices, roll, chain, permuted, index_put, to_and_fro),
    *(result_of_a_write, read_in_between, views_that_copy, diagonal, squeezed, copied_whole),
    *(lifted, expanded_reader),
]


def graph_of(write):
    torch.manual_seed(0)
    model = Calls(lambda s, x: write(s.layer(x)), layer=nn.Linear(3, 8))
    graph = exported(model, torch.ones(2, 3))
    EraseAsserts()(graph)
    return model, graph


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_computes_the_same_for_any_batch_size(write):
    model, graph = graph_of(write)
    assert Functionalize()(graph).modified
    check_graph(graph)
    for batch in (2, 5):  # of one example, the transpose is contiguous and would not be copied
        x = torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))
        expected, actual = model(x.clone()), graph(x)
        pairs = zip(
            *(torch.utils._pytree.tree_leaves(value) for value in (expected, actual)), strict=True
        )
        assert all(torch.equal(wanted, got) for wanted, got in pairs)


def test_what_is_added_has_a_shape_and_the_writes_origin():
    _, graph = graph_of(slices)
    Functionalize()(graph)
    for node in graph.graph.nodes:
        if node.op == "call_function":
            assert "val" in node.meta
            assert node.meta["stack_trace"]


def test_composite_ops_stay_what_they_are():
    def forward(self, x):
        y = self.norm(self.conv(x))
        y[:, 0] = 0.0
        return y.flatten(1)

    model = Calls(forward, conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2))
    graph = exported(model, torch.ones(2, 1, 4, 4))
    Functionalize()(graph)
    assert {"aten.conv2d.default", "aten.batch_norm.default", "aten.flatten.using_ints"} < set(
        targets(graph)
    )


def test_what_really_shares_memory_is_found_by_running():
    def copies(y):
        return y.view(-1, 2, 4), y.t().reshape(-1), y.contiguous(), y + 1

    _, graph = graph_of(copies)
    nodes = {node.name: node for node in graph.graph.nodes}
    assert may_be_view(nodes["reshape"])
    assert not may_be_view(nodes["add"])
    views = {node.name for node in views_of(graph)}
    assert {"view", "t"} <= views
    assert "reshape" not in views


def test_the_base_of_a_part_is_what_was_split():
    _, graph = graph_of(lambda y: sum(y.split(4, 1)))
    part = next(n for n in graph.graph.nodes if n.name.startswith("getitem"))
    assert base_of(part).name == "linear"
    assert part in views_of(graph)


def test_a_part_of_a_split_is_put_back():
    model = Calls(lambda s, x: (x.split([1, 2], 1)[1].mul_(2.0), x.unbind(1)[0].neg_(), x)[-1] + 0)
    model.layer = nn.Linear(1, 1)
    graph = exported(model, torch.ones(2, 3))
    Functionalize()(graph)
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(graph(x), model(x.clone()))


def test_a_mask_built_by_writes_is_constant():
    def write(y):
        mask = torch.zeros(8, 8)
        mask[:4, 2:] = 3
        mask[2:, 1].add_(1)
        return y @ torch.where(mask > 0, -1.0, mask)

    _, graph = graph_of(write)
    Functionalize()(graph)
    FoldConstants()(graph)
    assert targets(graph) == ["aten.linear.default", "aten.matmul.default"]
