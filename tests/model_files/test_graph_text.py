"""A graph as text and back: nothing of it is lost, and nothing in a text is run."""

import copy
import json
from collections import namedtuple

import pytest
import torch
from networks import Residual, traced
from torch import nn
from torch.testing import assert_close
from torch.utils import _pytree as pytree

import vibfx
from vibfx.errors import ModelFileError, OutputError
from vibfx.graph import module_path, shape_of, tensor_names
from vibfx.inputs import has_batch, tensor_inputs
from vibfx.model_files.graph_text import build_graph, describe_graph
from vibfx.model_files.trust import Trust
from vibfx.passes import InsertGates, SelectInputs

Scores = namedtuple("Scores", "first second")


class Nested(nn.Module):
    """Several inputs by name, a constant among them; results nested; one weight used twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.ModuleDict({"a-b c": nn.Linear(6, 6)})
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(6.0), persistent=False)
        self.mix["a-b c"].bias.requires_grad_(False)

    def forward(self, tokens, *, extra, scale=2.0):
        x = self.mix["a-b c"](self.embed(tokens) + extra["add"] * scale) + self.shift
        return {"scores": self.head(x), "parts": Scores(x.mean(1), [x.amax(1)])}


def nested():
    tokens, extra = torch.randint(0, 11, (2, 5)), {"add": torch.randn(2, 5, 6)}
    return vibfx.trace(Nested(), (tokens,), {"extra": extra, "scale": 3.0}), (tokens, extra)


def described(graph):
    return json.loads(json.dumps(describe_graph(graph)))


def tensors_of(graph):
    return {name: tensor.detach().clone() for name, tensor in tensor_names(graph)}


def rebuilt(graph):
    return build_graph(described(graph), tensors_of(graph), Trust())


def test_a_graph_comes_back_with_its_code_shapes_and_origins():
    graph = traced(Residual(), (1, 12, 12))
    found = rebuilt(graph)
    assert not found.training
    mine = [node for node in graph.graph.nodes if node.op != "get_attr" or node.users]
    for old, new in zip(mine, found.graph.nodes, strict=True):
        assert (new.name, str(new.target)) == (old.name, str(old.target))
        assert str((new.args, new.kwargs)) == str((old.args, old.kwargs))
        assert shape_of(new) == shape_of(old)
        if new.op == "call_function":
            assert module_path(new) == module_path(old)
    assert all(map(has_batch, tensor_inputs(found)))
    x = torch.randn(5, 1, 12, 12)
    assert torch.equal(found(x), graph(x))


def test_arguments_results_and_kinds_of_tensors_come_back():
    graph, (tokens, extra) = nested()
    found = rebuilt(graph)
    old = graph(tokens, extra=extra, scale=3.0)
    new = found(tokens, extra=extra, scale=3.0)
    assert pytree.tree_all_only(torch.Tensor, torch.is_tensor, new)
    assert new["parts"].second[0].equal(old["parts"].second[0])
    assert_close(new["scores"], old["scores"], rtol=0, atol=0)
    frozen = {name for name, p in found.named_parameters() if not p.requires_grad}
    assert frozen == {"mix.a-b c.bias"}
    assert {name for name, _ in found.named_buffers()} >= {"shift"}


def test_tied_tensors_are_stored_once_and_tied_again():
    graph = traced(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (4,))
    graph.get_submodule("1").weight = graph.get_submodule("0").weight
    text, tensors = described(graph), tensors_of(graph)
    assert text["tensors"]["1.weight"]["stored"] == "0.weight"
    del tensors["1.weight"]
    found = build_graph(text, tensors, Trust())
    assert found.get_submodule("1").weight is found.get_submodule("0").weight


def test_it_can_be_analysed_and_gated_like_the_original():
    graph = traced(Residual(), (1, 12, 12))
    one, other = vibfx.analyze(graph), vibfx.analyze(rebuilt(graph))
    assert [(g.name, g.size, g.sites) for g in one.groups] == [
        (g.name, g.size, g.sites) for g in other.groups
    ]


def test_selected_inputs_are_known_again():
    selected = SelectInputs()(traced(nn.Sequential(nn.Linear(9, 4), nn.Linear(4, 2)), (9,)))
    graph = selected.graph_module
    assert vibfx.measure(rebuilt(graph)) == vibfx.measure(graph)
    assert len(vibfx.analyze(rebuilt(graph)).groups) == len(vibfx.analyze(graph).groups)


def test_gates_have_no_text():
    graph = traced(Residual(), (1, 12, 12))
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    with pytest.raises(OutputError, match="calls the module gates") as error:
        describe_graph(gated)
    assert "FoldGates" in error.value.hint


# --- what a stranger could write


@pytest.fixture(scope="module")
def whole():
    graph = traced(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 6, 6))
    return described(graph), tensors_of(graph)


def refused(whole, change, match):
    text, tensors = copy.deepcopy(whole[0]), dict(whole[1])
    change(text, tensors)
    with pytest.raises(ModelFileError, match=match):
        build_graph(text, tensors, Trust())


CODE = "x); open('mark', 'w'); ("


def first(text, op):
    return next(node for node in text["nodes"] if node["op"] == op)


@pytest.mark.parametrize("name", [CODE, "", "a b", "class", 3, None, "x\n"])
def test_whatever_becomes_source_is_a_name(whole, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relu = lambda text: text["nodes"][-2]  # noqa: E731
    refused(whole, lambda text, _: relu(text).update(name=name), "is no name")
    refused(whole, lambda text, _: first(text, "placeholder").update(argument=name), "is no name")
    refused(whole, lambda text, _: text.update(arguments=[name]), "is no name")
    refused(whole, lambda text, _: text.update(name=name), "is no name")
    refused(whole, lambda text, _: relu(text).update(kwargs={str(name): 1}), "is no name")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ['0"); open("mark", "w")', "a'b", "a\\b", "a\nb", "", "a..b"])
def test_names_of_tensors_stay_within_their_quotes(whole, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def rename(text, tensors):
        (entry, *_), (value, *_) = text["tensors"].values(), tensors.values()
        text["tensors"], tensors[name] = {name: entry}, value
        first(text, "get_attr")["tensor"] = name

    refused(whole, rename, "is no name of a tensor")
    assert not (tmp_path / "mark").exists()


def test_strings_among_arguments_are_no_source(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, tensors = copy.deepcopy(whole[0]), whole[1]
    text["nodes"][-2]["args"].append("'); open('mark', 'w'); ('")
    with pytest.raises(RuntimeError):  # no argument of that op
        build_graph(text, tensors, Trust())
    assert not (tmp_path / "mark").exists()


def test_only_harmless_operators_are_called(whole):
    def call(name):
        return lambda text, _: text["nodes"][-2].update(calls=name)

    refused(whole, call("aten.from_file.default"), "not known to be harmless")
    refused(whole, call("os.system.default"), "not known to be harmless")
    refused(whole, call("builtins.eval"), "no op of torch")


def test_sizes_have_limits(whole):
    def resize(*shape):
        return lambda text, _: first(text, "placeholder")["tensor"].update(shape=shape)

    refused(whole, resize(None, 1, 2**20, 2**20), "larger than any machine")

    def grow(text, _):
        relu = text["nodes"][-2]
        relu.update(calls="aten.repeat.default", args=[relu["args"][0], [2**20, 2**10, 2**10, 1]])

    refused(whole, grow, "larger than any machine")


def test_a_tensor_or_a_node_that_is_not_there(whole):
    refused(whole, lambda text, _: first(text, "get_attr").update(tensor="x"), "is not there")
    refused(whole, lambda text, _: text["nodes"][-2].update(op="call_method"), "of the kind")
    double = lambda text, _: text["nodes"].insert(0, dict(text["nodes"][0]))  # noqa: E731
    refused(whole, double, "two nodes named")
