import pytest
import torch
from expecttest import TestCase
from networks import Residual, gated, randomize, traced
from small_graphs import (
    Calls,
    Dense,
    Plain,
    assert_same,
    assert_shares_no_memory,
    outputs,
    plain,
    snapshot,
    targets,
)
from torch import nn

import vibfx
from vibfx.errors import GraphError, NothingRemovableError
from vibfx.gates import VIBGate, apply_gates, gates_of
from vibfx.passes import InsertGates, SetMode


def sites(graph):
    found = graph.graph.find_nodes(op="call_function", target=apply_gates)
    return {n.args[0].name: [v.target for v in n.args[1]] for n in found}


def traced_dense():
    torch.manual_seed(0)
    return traced(Dense(), (1, 4, 4))


class Golden(TestCase):
    def test_before_and_after(self):
        torch.manual_seed(0)
        graph = traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
        self.assertExpectedInline(
            vibfx.format_graph(graph),
            """\
%_0_weight: f32[4, 3] = attribute 0.weight
%_0_bias: f32[4] = attribute 0.bias
%_2_weight: f32[2, 4] = attribute 2.weight
%_2_bias: f32[2] = attribute 2.bias
%input_1: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
%relu: f32[N, 4] = aten.relu(%linear)  # 1
%linear_1: f32[N, 2] = aten.linear(%relu, %_2_weight, %_2_bias)  # 2
return [%linear_1]
""",
        )
        result = InsertGates(vibfx.analyze(graph))(graph)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%_0_weight: f32[4, 3] = attribute 0.weight
%_0_bias: f32[4] = attribute 0.bias
%_2_weight: f32[2, 4] = attribute 2.weight
%_2_bias: f32[2] = attribute 2.bias
%input_1: f32[N, 3] = input
%linear: f32[N, 4] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
%relu: f32[N, 4] = aten.relu(%linear)  # 1
%gates_0: f32[N, 4] = gates.0(%relu)
%apply_gates: f32[N, 4] = apply_gates(%relu, [%gates_0])  # 1
%linear_1: f32[N, 2] = aten.linear(%apply_gates, %_2_weight, %_2_bias)  # 2
return [%linear_1]
""",
        )


def test_new_gates_change_nothing():
    graph = plain()
    randomize(graph, (1, 5, 5))
    found = vibfx.verify(graph, gated(graph), tolerance=1e-15)
    assert found.error == 0.0
    assert found.sensitivity > 1e-3


def test_a_shut_unit_is_as_good_as_a_weight_of_zero():
    graph = plain().double()
    randomize_in_double = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    module = gated(graph)
    with torch.no_grad():
        gates_of(module)["gates.conv"].mu[2] = 0.0
        graph.get_parameter("head.weight")[:, 2] = 0.0
        torch.testing.assert_close(
            module(randomize_in_double), graph(randomize_in_double), rtol=0, atol=1e-15
        )


def test_gates_sit_behind_norm_and_activation():
    assert sites(gated(plain())) == {"relu": ["gates.conv"]}


def test_a_residual_stream_is_gated_at_every_producer_by_one_gate():
    torch.manual_seed(0)
    module = gated(traced(Residual(3), (1, 6, 6)))
    assert sites(module) == {
        "relu": ["gates.stem_0"],
        "relu_1": ["gates.block1_conv1"],
        "batch_norm_2": ["gates.stem_0"],
        "relu_3": ["gates.block2_conv1"],
        "batch_norm_4": ["gates.block2_conv2"],
        "batch_norm_5": ["gates.block2_conv2"],
    }
    # One draw a batch size serves all sites of a gate.
    assert targets(module).count("gates.stem_0") == 1
    assert {name: gate.units for name, gate in gates_of(module).items()} == {
        "gates.stem_0": 3,
        "gates.block1_conv1": 3,
        "gates.block2_conv1": 6,
        "gates.block2_conv2": 6,
    }


def test_a_site_of_several_gates_has_an_index():
    module = gated(traced_dense())
    assert sites(module) == {
        "relu": ["gates.stem"],
        "relu_1": ["gates.stem", "gates.conv1"],
        "relu_2": ["gates.stem", "gates.conv1", "gates.conv2"],
    }
    assert module.get_buffer("gate_index_0").shape == (7, 1, 1)
    assert module.get_buffer("gate_index_0").flatten().tolist() == list(range(7))
    assert module.get_buffer("gate_index_1").flatten().tolist() == list(range(9))


def test_what_no_gate_governs_is_multiplied_by_one():
    """Channels of the input beside those of a layer: entry 4 of the row is the final 1."""

    def forward(self, x):
        return self.head(torch.cat([x, torch.relu(self.inner(x))], 1))

    torch.manual_seed(0)
    graph = traced(Calls(forward, inner=nn.Linear(3, 4), head=nn.Linear(7, 2)), (3,))
    module = gated(graph)
    assert sites(module) == {"relu": ["gates.inner"]}
    with torch.no_grad():
        gates_of(module)["gates.inner"].mu.zero_()
    shut = outputs(module, (3,))
    with torch.no_grad():
        graph.get_parameter("head.weight")[:, 3:] = 0.0
    torch.testing.assert_close(shut, outputs(graph, (3,)), rtol=0, atol=1e-7)


def test_threshold_mode_and_initial_values_of_the_gates():
    graph = plain()
    SetMode(training=True)(graph)
    module = InsertGates(vibfx.analyze(graph), threshold=1.5)(graph).graph_module
    (gate,) = gates_of(module).values()
    assert type(gate) is VIBGate
    assert gate.threshold == 1.5
    assert gate.training
    assert torch.equal(gate.mu, torch.ones(4))
    assert torch.equal(gate.log_sigma2, torch.full((4,), -9.0))


def test_a_training_gate_draws_one_row_an_example():
    module = gated(plain())
    SetMode(training=True)(module)
    rows = []
    (gate,) = gates_of(module).values()
    gate.register_forward_hook(lambda _module, _inputs, values: rows.append(values.shape))
    for batch in (2, 7):
        outputs(module, (1, 5, 5), batch)
    assert rows == [(2, 4), (7, 4)]


def test_a_model_that_has_a_module_named_gates_keeps_it():
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.head(torch.relu(s.gates(x))), gates=nn.Linear(3, 4))
    model.head = nn.Linear(4, 2)
    graph = traced(model, (3,))
    module = gated(graph)
    assert list(gates_of(module)) == ["vib_gates.gates"]
    assert torch.equal(outputs(module, (3,)), outputs(graph, (3,)))


def test_provenance_goes_to_the_gated_node():
    module = gated(traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)))
    line = next(x for x in vibfx.format_graph(module).splitlines() if "%apply_gates" in x)
    assert line.endswith("# 1")


def test_refuses_a_network_without_a_hidden_layer():
    torch.manual_seed(0)
    graph = traced(nn.Linear(3, 2), (3,))
    with pytest.raises(NothingRemovableError) as caught:
        InsertGates(vibfx.analyze(graph))(graph)
    assert caught.value.what == (
        "nothing can be removed from this network (4 indices: the model's output; 3 indices: "
        "reads features that cannot be removed, such as those of the model's input)"
    )
    assert "at least one hidden layer" in caught.value.hint
    assert caught.value.__notes__ == ["in pass insert-gates"]


def test_twice_from_the_same_analysis_gives_the_same():
    graph = plain()
    insert = InsertGates(vibfx.analyze(graph))
    once, again = insert(graph).graph_module, insert(graph).graph_module
    assert_same(snapshot(once), snapshot(again))


def test_a_gated_graph_has_the_groups_and_units_of_the_graph():
    graph = traced_dense()
    before, after = vibfx.analyze(graph), vibfx.analyze(gated(graph))
    assert [(g.name, g.size) for g in before.groups] == [(g.name, g.size) for g in after.groups]
    assert [(g.name, g.size) for g in before.groups] == [("stem", 4), ("conv1", 3), ("conv2", 2)]


def test_the_input_is_not_modified():
    graph = traced(Plain(), (1, 5, 5))
    before = snapshot(graph)
    module = gated(graph)
    assert_same(before, snapshot(graph))
    assert_shares_no_memory(graph, module)
    assert not InsertGates.in_place


def test_a_gated_graph_is_refused():
    module = gated(plain())
    with pytest.raises(GraphError, match="has gates already"):
        InsertGates(vibfx.analyze(module))(module)


def test_the_coupling_of_another_graph_is_refused():
    with pytest.raises(GraphError, match="coupling is of another graph"):
        InsertGates(vibfx.analyze(plain()))(plain(channels=5))
