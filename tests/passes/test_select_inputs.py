"""Features of the model's inputs leave a network: where they are selected, and that it is right."""

import copy
import functools

import numpy as np
import onnxruntime
import pytest
import torch
from couplings import rows, unit, units
from expecttest import TestCase
from networks import gated, randomize, shut_half, traced
from small_graphs import Calls, assert_same, assert_shares_no_memory, snapshot
from tasks import one_thread  # noqa: F401
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.costs import CostModel
from vibfx.errors import GraphError, NothingRemovableError, PlanError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels, SelectInputs
from vibfx.passes.select_inputs import with_selected_inputs

aten = torch.ops.aten


class Encoder(nn.Module):
    """A norm, a projection and an attention of two heads over six tokens of features."""

    def __init__(self, features=10):
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(features), nn.Linear(features, 8)
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(self.norm(x))
        q, k, v = self.qkv(x).view(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.out(mixed.transpose(1, 2).reshape(-1, 6, 8))).mean(1))


class Scaled(nn.Module):
    """Images that the model itself brings to mean 0 and deviation 1."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
        self.a, self.b = nn.Linear(48, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(((x - self.mean) / self.std).flatten(1))))


def mlp(features=48, hidden=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def convolutions(channels, groups=1):
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, groups=groups),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def skip(net, x):
    return net.b(torch.cat([x, torch.relu(net.a(x))], 1))


def branches(net, x):
    x = x.flatten(1)
    return net.c(torch.relu(net.a(x)) + torch.tanh(net.b(x)))


def residual(net, x):
    return x + net.b(torch.relu(net.a(x)))


def matrix(net, x):
    return net.b(torch.relu(x @ net.a.weight))


def layers(forward, **features):
    """A network whose linears have the given sizes."""
    return Calls(forward, **{name: nn.Linear(*pair) for name, pair in features.items()})


# A network, the shape of one example, and of each table how many features it selects.
NETWORKS = {
    "images flattened": (mlp, (3, 4, 4), [48]),
    "vectors": (lambda: nn.Sequential(*mlp(20)[1:]), (20,), [20]),
    "three channels": (lambda: convolutions(3), (3, 4, 4), [3]),
    "twelve channels": (lambda: convolutions(12), (12, 4, 4), [12]),
    "a group a channel": (lambda: convolutions(6, groups=6), (6, 4, 4), [6]),
    "three groups": (lambda: convolutions(12, groups=3), (12, 4, 4), [12]),
    "a transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(5, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        (5, 3, 3),
        [5],
    ),
    "a skip into a concatenation": (lambda: layers(skip, a=(9, 6), b=(15, 3)), (9,), [9]),
    "two readers": (lambda: layers(branches, a=(12, 5), b=(12, 5), c=(5, 3)), (3, 4), [12]),
    "a residual to the output": (lambda: layers(residual, a=(9, 6), b=(6, 9)), (9,), [9]),
    "channels last": (
        lambda: Calls(lambda net, x: net.a(x.permute(0, 3, 1, 2)), a=convolutions(5)),
        (4, 4, 5),
        [5],
    ),
    "tokens": (Encoder, (6, 10), [10]),
    "a product": (lambda: layers(matrix, a=(6, 9), b=(6, 3)), (5, 9), [9]),
    "sequences": (
        lambda: Calls(
            lambda n, x: n.b(n.a(x)[0][:, -1]), a=nn.LSTM(7, 6, batch_first=True), b=nn.Linear(6, 3)
        ),
        (5, 7),
        [7],
    ),
    "scaled": (Scaled, (3, 4, 4), [48]),
    "a batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(12), *mlp(12)[1:]), (12,), [12]),
    "pooled": (lambda: nn.Sequential(nn.AvgPool2d(2), *mlp(12)), (3, 4, 4), [12]),
}


@functools.cache
def selected(name):
    """A network's graph as it was, and with its inputs selected."""
    build, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    graph = traced(build().eval(), shape)
    randomize(graph, shape)
    return graph, SelectInputs()(graph).graph_module


def cut(module, seed=0):
    """A graph with its inputs selected, gated and half shut; the plan of that; what is left."""
    module = gated(module)
    shut_half(module, seed)
    return module, vibfx.plan(module), left_of(module)


def left_of(gated_module):
    """What its gates leave of a gated graph, in float64 and without gates."""
    exact = to_dtype(copy_graph_module(gated_module), torch.float64)
    return FoldGates()(PruneChannels(vibfx.plan(exact))(exact).graph_module).graph_module


def tables(module):
    """The tables by which inputs are selected, by name."""
    return {name: b.tolist() for name, b in module.named_buffers() if name.startswith("inputs.")}


def selections(module):
    return module.graph.find_nodes(op="call_function", target=aten.index_select.default)


class Golden(TestCase):
    def test_before_and_after(self):
        graph = traced(layers(branches, a=(6, 5), b=(6, 5), c=(5, 3)), (2, 3))
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%a_weight: f32[5, 6] = attribute a.weight
%a_bias: f32[5] = attribute a.bias
%b_weight: f32[5, 6] = attribute b.weight
%b_bias: f32[5] = attribute b.bias
%c_weight: f32[3, 5] = attribute c.weight
%c_bias: f32[3] = attribute c.bias
%x: f32[N, 2, 3] = input
%flatten: f32[N, 6] = aten.flatten.using_ints(%x, 1)
%linear: f32[N, 5] = aten.linear(%flatten, %a_weight, %a_bias)  # a
%relu: f32[N, 5] = aten.relu(%linear)
%linear_1: f32[N, 5] = aten.linear(%flatten, %b_weight, %b_bias)  # b
%tanh: f32[N, 5] = aten.tanh(%linear_1)
%add: f32[N, 5] = aten.add.Tensor(%relu, %tanh)
%linear_2: f32[N, 3] = aten.linear(%add, %c_weight, %c_bias)  # c
return [%linear_2]
""",
        )
        result = SelectInputs()(graph)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%a_weight: f32[5, 6] = attribute a.weight
%a_bias: f32[5] = attribute a.bias
%b_weight: f32[5, 6] = attribute b.weight
%b_bias: f32[5] = attribute b.bias
%c_weight: f32[3, 5] = attribute c.weight
%c_bias: f32[3] = attribute c.bias
%x: f32[N, 2, 3] = input
%flatten: f32[N, 6] = aten.flatten.using_ints(%x, 1)
%inputs_x: i64[6] = attribute inputs.x
%index_select_default: f32[N, 6] = aten.index_select(%flatten, 1, %inputs_x)
%linear: f32[N, 5] = aten.linear(%index_select_default, %a_weight, %a_bias)  # a
%relu: f32[N, 5] = aten.relu(%linear)
%linear_1: f32[N, 5] = aten.linear(%index_select_default, %b_weight, %b_bias)  # b
%tanh: f32[N, 5] = aten.tanh(%linear_1)
%add: f32[N, 5] = aten.add.Tensor(%relu, %tanh)
%linear_2: f32[N, 3] = aten.linear(%add, %c_weight, %c_bias)  # c
return [%linear_2]
""",
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_every_feature_that_a_weight_reads_is_selected_and_nothing_else_changes(name):
    graph, module = selected(name)
    assert [list(range(size)) for size in NETWORKS[name][2]] == list(tables(module).values())
    assert len(selections(module)) == len(NETWORKS[name][2])
    assert vibfx.verify(graph, module, tolerance=1e-13).sensitivity > 1e-4
    known = {group.name: group.size for group in vibfx.analyze(graph).groups}
    found = {group.name: group.size for group in vibfx.analyze(module).groups}
    assert known.items() < found.items()  # what could go before still can
    assert found.keys() - known.keys() == tables(module).keys()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_go_exactly(name, seed):
    graph, module = selected(name)
    module, plan, small = cut(module, seed)
    found = vibfx.verify(module, small)
    assert found.error < 1e-9
    assert found.sensitivity > 1e-4
    assert vibfx.measure(small).flops < vibfx.measure(graph).flops
    (table,) = tables(module)
    kept = vibfx.PruningPlan.from_json(plan.to_json()).parameters[table][0]
    assert 0 < len(kept) < NETWORKS[name][2][0]
    assert tables(small) == {table: list(kept)}


@pytest.mark.parametrize("name", ["images flattened", "channels last", "tokens", "sequences"])
def test_the_onnx_file_takes_the_whole_input_and_agrees(name, tmp_path):
    small = to_dtype(cut(selected(name)[1])[2], torch.float32)
    exported = vibfx.export_onnx(small, tmp_path / "small.onnx")
    (given,) = onnxruntime.InferenceSession(exported.path).get_inputs()
    assert given.shape == ["batch", *NETWORKS[name][1]]
    assert exported.difference < 1e-4


@pytest.mark.parametrize("name", ["images flattened", "three groups", "sequences"])
def test_the_cost_of_what_reads_the_input_falls_with_the_features(name):
    graph, module = selected(name)
    module, plan, small = cut(module)
    found = vibfx.analyze(module)
    keep = np.concatenate([np.isin(np.arange(g.units), g.kept) for g in plan.groups])
    full, left = vibfx.measure(graph), vibfx.measure(small)
    costs = CostModel(module, found)
    assert costs.cost("flops", keep) == pytest.approx(left.flops)
    assert costs.cost("params", keep) == left.parameters
    (group,) = [group for group in found.groups if group.name.startswith("inputs.")]
    keep = np.ones(found.units, dtype=bool)
    keep[group.units] = False
    assert costs.cost("flops", keep) < 0.9 * full.flops


@pytest.mark.parametrize(
    "name", sorted(NETWORKS.keys() - {"sequences"})
)  # inside an LSTM nothing folds
def test_nothing_of_a_gate_is_left(name):
    small = cut(selected(name)[1])[2]
    assert aten.mul.Tensor not in {node.target for node in small.graph.nodes}


def test_what_goes_together_with_a_feature():
    found = vibfx.analyze(selected("a skip into a concatenation")[1])
    assert units(found) == {
        unit(f"inputs.x:0[{i}]", f"a.weight:1[{i}]", f"b.weight:1[{i}]") for i in range(9)
    } | {unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"b.weight:1[{i + 9}]") for i in range(6)}
    assert [group.name for group in found.groups] == ["a", "inputs.x"]


def test_an_input_that_reaches_the_output_stays_whole_there():
    _, module = selected("a residual to the output")
    assert units(vibfx.analyze(module)) == rows(6, "a", "> b") | {
        unit(f"inputs.x:0[{i}]", f"a.weight:1[{i}]") for i in range(9)
    }


def test_what_is_joined_to_an_output_is_not_selected():
    net = layers(lambda net, x: torch.cat([x, net.b(torch.relu(net.a(x)))], 1), a=(5, 4), b=(4, 2))
    module = SelectInputs()(traced(net, (5,))).graph_module
    (joined,) = module.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert joined.args[0][0].op == "placeholder"
    assert tables(module) == {"inputs.x": [0, 1, 2, 3, 4]}


def test_different_places_of_one_input_have_tables_of_their_own():
    def forward(net, x):
        return net.c(torch.relu(net.a(x).flatten(1)) + torch.relu(net.b(x.flatten(1))))

    net = Calls(forward, a=nn.Conv2d(3, 2, 1), b=nn.Linear(48, 32), c=nn.Linear(32, 3))
    module = SelectInputs()(traced(net, (3, 4, 4))).graph_module
    assert {name: len(table) for name, table in tables(module).items()} == {
        "inputs.x": 3,
        "inputs.x_2": 48,
    }
    module, _, small = cut(module)
    assert vibfx.verify(module, small).error < 1e-9


def test_of_several_inputs_one_may_go_as_a_whole():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x, y):
            return self.head(torch.relu(self.a(x) + self.b(y)))

    torch.manual_seed(0)
    graph = vibfx.trace(Two().eval(), (torch.randn(2, 6), torch.randn(2, 4)))
    module = gated(SelectInputs()(graph).graph_module)
    with torch.no_grad():
        gates_of(module)["gates.inputs_x"].mu.zero_()
    small = left_of(module)
    assert vibfx.verify(module, small).error < 1e-9
    assert [node.target for node in selections(small)] == [aten.index_select.default]
    assert [node.name for node in small.graph.find_nodes(op="placeholder")] == ["x", "y"]


def test_nothing_of_a_gate_is_left_where_one_feature_is():
    module = gated(selected("two readers")[1])
    gate = gates_of(module)["gates.inputs_x"]
    with torch.no_grad():
        gate.mu.zero_()
        gate.mu[4] = 0.7
    small = left_of(module)
    assert tables(small) == {"inputs.x": [4]}
    assert vibfx.verify(module, small).error < 1e-9
    assert aten.mul.Tensor not in {node.target for node in small.graph.nodes}


def test_an_attribute_of_the_models_own_is_left_alone():
    net = Calls(lambda net, x: net.b(torch.relu(net.inputs(x))), inputs=nn.Linear(6, 4))
    net.b = nn.Linear(4, 2)
    module = SelectInputs()(traced(net, (6,))).graph_module
    assert dict(module.named_buffers()).keys() == {"vib_inputs.x"}
    assert vibfx.analyze(module).units == 4 + 6


def test_a_copy_and_what_is_left_know_their_tables():
    module, plan, small = cut(selected("images flattened")[1])
    assert vibfx.plan(copy.deepcopy(module)).parameters == plan.parameters
    again = gated(to_dtype(small, torch.float32))
    shut_half(again, seed=1)
    assert set(tables(left_of(again))["inputs.input_1"]) < set(tables(small)["inputs.input_1"])


UNCHANGED = {
    "one channel": (lambda: convolutions(1), torch.randn(2, 1, 4, 4)),
    "no weights": (lambda: nn.Softmax(-1), torch.randn(2, 5)),
    "whole numbers": (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5)),
        torch.zeros(2, 3, dtype=torch.int64),
    ),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_where_no_feature_can_go_the_graph_stays_as_it_is(name):
    build, x = UNCHANGED[name]
    graph = vibfx.trace(build().eval(), x)
    before = snapshot(graph)
    result = SelectInputs()(graph)
    assert not result.modified
    assert_same(before, snapshot(result.graph_module))
    with pytest.raises(NothingRemovableError, match="no feature of the model's input"):
        with_selected_inputs(graph)


def test_a_gated_graph_is_refused():
    graph = gated(selected("vectors")[0])
    with pytest.raises(GraphError, match="the graph has gates already") as caught:
        SelectInputs()(graph)
    assert caught.value.__notes__ == ["in pass select-inputs"]


def test_a_plan_is_for_a_graph_whose_inputs_are_selected():
    graph, module = selected("images flattened")
    _, plan, small = cut(module)
    again = PruneChannels(plan)(SelectInputs()(graph).graph_module).graph_module
    assert tables(again) == tables(small)
    with pytest.raises(PlanError, match="this graph has no such parameter") as caught:
        PruneChannels(plan)(graph)
    assert caught.value.where == "inputs.input_1"
    assert "inputs selected" in caught.value.hint


@pytest.mark.parametrize("name", NETWORKS)
def test_twice_changes_nothing_more(name):
    module = selected(name)[1]
    again = SelectInputs()(module)
    assert not again.modified
    assert_same(snapshot(module), snapshot(again.graph_module))


def test_the_input_is_not_modified():
    torch.manual_seed(0)
    graph = traced(mlp().eval(), (3, 4, 4))
    before = snapshot(graph)
    result = SelectInputs()(graph)
    assert_same(before, snapshot(graph))
    assert_shares_no_memory(graph, result.graph_module)
    assert not SelectInputs.in_place
