import pytest
import torch
from expecttest import TestCase
from small_graphs import Plain, assert_same, exported, snapshot
from torch import nn

import vibfx
from vibfx.errors import TraceError
from vibfx.passes import EraseAsserts, EraseCounters


def in_training(model=None):
    torch.manual_seed(0)
    graph = exported(model or Plain(), torch.ones(2, 1, 5, 5), training=True)
    EraseAsserts()(graph)
    return graph


def writes(graph):
    return [node.name for node in graph.graph.nodes if "add_" in str(node.target)]


class Golden(TestCase):
    def test_before_and_after(self):
        graph = in_training()
        counters = [line for line in vibfx.format_graph(graph).splitlines() if "batches" in line]
        self.assertExpectedInline(
            "\n".join(counters),
            """\
%norm_num_batches_tracked: i64[] = attribute norm.num_batches_tracked
%add_: i64[] = aten.add_.Tensor(%norm_num_batches_tracked, 1)  # norm""",
        )
        assert EraseCounters()(graph).modified
        assert "batches" not in vibfx.format_graph(graph)


def test_other_writes_to_buffers_stay():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = Plain()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return self.plain(x)

    graph = in_training(Counts())
    assert len(writes(graph)) == 2
    EraseCounters()(graph)
    (left,) = writes(graph)
    (node,) = (node for node in graph.graph.nodes if node.name == left)
    assert node.args[0].target == "calls"


def test_a_count_that_is_read_stays():
    class Reads(Plain):
        def forward(self, x):
            count = self.norm.num_batches_tracked.add_(1)
            return super().forward(x) * count

    before = writes(graph := in_training(Reads()))
    EraseCounters()(graph)
    assert writes(graph) == before
    with pytest.raises(TraceError, match=r"buffer norm\.num_batches_tracked"):
        vibfx.trace(Reads(), torch.ones(2, 1, 5, 5))


def test_twice_changes_nothing_more():
    graph = in_training()
    EraseCounters()(graph)
    before = snapshot(graph)
    assert not EraseCounters()(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    graph = in_training()
    assert EraseCounters.in_place
    assert EraseCounters()(graph).graph_module is graph
