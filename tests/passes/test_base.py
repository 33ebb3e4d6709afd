from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from small_graphs import assert_same, assert_shares_no_memory, plain, snapshot, targets
from torch import fx, nn

import vibfx.passes
from vibfx.errors import GraphError
from vibfx.passes import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class ReluToTanh(Pass):
    name: ClassVar[str] = "relu-to-tanh"

    def rewrite(self, module):
        found = module.graph.find_nodes(op="call_function", target=aten.relu.default)
        for node in found:
            node.target = aten.tanh.default
        return bool(found)


@dataclass(frozen=True)
class ReluToTanhInPlace(ReluToTanh):
    name: ClassVar[str] = "relu-to-tanh-in-place"
    in_place: ClassVar[bool] = True


@dataclass(frozen=True)
class Breaks(Pass):
    name: ClassVar[str] = "breaks"

    def rewrite(self, module):
        for node in module.graph.find_nodes(op="call_function", target=aten.relu.default):
            node.target = aten.relu_.default
        return True


@dataclass(frozen=True)
class Orphans(Pass):
    """Cuts off what the head reads, so that all before it is dead."""

    name: ClassVar[str] = "orphans"

    def rewrite(self, module):
        (output,) = module.graph.find_nodes(op="output")
        (x,) = module.graph.find_nodes(op="placeholder")
        output.args = ((x,),)
        return True


@dataclass(frozen=True)
class Nothing(Pass):
    name: ClassVar[str] = "nothing"


def test_works_on_a_copy_that_shares_nothing():
    graph = plain()
    before = snapshot(graph)
    result = ReluToTanh()(graph)
    assert result.modified
    assert result.graph_module is not graph
    assert "aten.tanh.default" in targets(result.graph_module)
    assert_same(before, snapshot(graph))
    assert_shares_no_memory(graph, result.graph_module)


def test_in_place_works_on_what_is_handed_in():
    graph = plain()
    result = ReluToTanhInPlace()(graph)
    assert result.graph_module is graph
    assert "aten.tanh.default" in targets(graph)
    assert "tanh" in graph.code  # recompiled


def test_says_when_nothing_was_changed():
    graph = ReluToTanh()(plain()).graph_module
    again = ReluToTanh()(graph)
    assert not again.modified
    assert_same(snapshot(graph), snapshot(again.graph_module))


def test_drops_dead_nodes_and_unused_modules():
    small = Orphans()(plain()).graph_module
    assert targets(small) == []
    assert list(small.named_modules()) == [("", small)]
    x = torch.ones(2, 1, 5, 5)
    assert torch.equal(small(x), x)


def test_a_pass_that_breaks_a_rule_is_named():
    graph = plain()
    before = snapshot(graph)
    with pytest.raises(GraphError, match=r"aten.relu_.default writes to its input") as caught:
        Breaks()(graph)
    assert caught.value.__notes__ == ["in pass breaks"]
    assert_same(before, snapshot(graph))


def test_a_broken_graph_is_refused_before_it_is_touched():
    graph = plain()
    for node in graph.graph.find_nodes(op="call_function", target=aten.relu.default):
        node.target = torch.relu
    graph.recompile()
    with pytest.raises(GraphError, match="is no ATen op") as caught:
        ReluToTanhInPlace()(graph)
    assert caught.value.__notes__ == ["in pass relu-to-tanh-in-place"]
    assert "torch.relu" in graph.code


def test_options_are_fields_that_cannot_be_changed():
    setting = vibfx.passes.SetMode(training=True)
    assert setting == vibfx.passes.SetMode(training=True) != vibfx.passes.SetMode(training=False)
    with pytest.raises(FrozenInstanceError):
        setting.training = False


def test_a_pass_without_a_rewrite_says_so():
    with pytest.raises(NotImplementedError):
        Nothing()(fx.GraphModule(nn.Module(), _identity()))


def test_names_are_kebab_case_and_told_apart():
    classes = [getattr(vibfx.passes, name) for name in vibfx.passes.__all__ if name != "Pass"]
    names = [c.name for c in classes]
    assert len(set(names)) == len(names) == 14
    for c in classes:
        spelled = "".join(f"-{ch.lower()}" if ch.isupper() else ch for ch in c.__name__)
        assert c.name == spelled.removeprefix("-")
        assert issubclass(c, Pass)
        assert c.__module__.rpartition(".")[2] == c.name.replace("-", "_")


def _identity():
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))
    return graph
