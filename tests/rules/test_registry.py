"""The table of rules: one rule an op, and none missing for the networks of the tests."""

import pytest
import torch
from couplings import check_exact
from networks import ARCHITECTURES, traced
from op_nets import NETS
from torch import fx, nn

from vibfx.gates import VIBGate, apply_gates
from vibfx.graph import operands
from vibfx.propagation import propagate
from vibfx.rules import RULES, OpRule, Scale, Zero, registry, rule, rule_for
from vibfx.rules.registry import TAG_RULES

aten = torch.ops.aten


def test_a_second_rule_for_an_op_is_refused():
    before = dict(RULES)
    with pytest.raises(ValueError, match=r"aten\.relu\.default has a rule already"):
        rule(aten.relu.default)(lambda facts, x: x.factors)
    assert before == RULES


def test_a_rule_is_registered_for_each_op_with_its_facts(monkeypatch):
    monkeypatch.setattr("vibfx.rules.registry.RULES", {})

    @rule("one", "two", zero=Zero.FIRST, activation=True)
    def labels(facts, x):
        return x.factors

    expected = OpRule(labels, zero=Zero.FIRST, activation=True)
    assert {"one": expected, "two": expected} == registry.RULES


def test_one_function_may_serve_ops_with_other_facts():
    relu, clone = RULES[aten.relu.default], RULES[aten.clone.default]
    assert relu.labels is clone.labels
    assert relu.scale is Scale.POSITIVE
    assert clone.scale is Scale.LINEAR


def test_zero_may_depend_on_the_node():
    graph = fx.Graph()
    x = graph.placeholder("x")
    own = OpRule(lambda facts: (), zero=lambda node: Zero.EVERY if node is x else None)
    assert own.zero_at(x) is Zero.EVERY
    assert own.zero_at(graph.placeholder("y")) is None


def test_rules_are_found_by_op_and_by_class_of_module():
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.call_function(aten.relu.default, (x,))
    unknown = graph.call_function(aten.cummax.default, (x, 0))
    gate, other = graph.call_module("gate", (x,)), graph.call_module("other", (x,))
    module = fx.GraphModule({"gate": VIBGate(3), "other": nn.ReLU()}, graph)
    assert rule_for(module, call) is RULES[aten.relu.default]
    assert rule_for(module, gate) is RULES[VIBGate]
    assert [rule_for(module, node) for node in (x, unknown, other)] == [None, None, None]


def test_what_is_tagged_as_pointwise_has_a_rule_without_being_listed():
    graph = fx.Graph()
    call = graph.call_function(aten.erfinv.default, (graph.placeholder("x"),))
    assert call.target not in RULES
    found = rule_for(fx.GraphModule({}, graph), call)
    assert found is TAG_RULES[torch.Tag.pointwise]


def test_a_weight_is_a_parameter_with_rows_and_columns():
    graph = fx.Graph()
    x = graph.placeholder("x")
    matrix, vector = graph.get_attr("matrix"), graph.get_attr("vector")
    matrix.meta["val"], vector.meta["val"] = torch.zeros(2, 3), torch.zeros(3)
    found = RULES[aten.linear.default]
    weights = [
        found.weight_of(graph.call_function(aten.linear.default, (x, w)))
        for w in (matrix, vector, x)
    ]
    assert weights == [matrix, None, None]
    assert (
        RULES[aten.relu.default].weight_of(graph.call_function(aten.relu.default, (matrix,)))
        is None
    )


# --- one network for every op -------------------------------------------------------------------

# Tracing writes down which dimensions it drops, and so makes another op of it.
REWRITTEN = {aten.squeeze.default}
GATES = {VIBGate, apply_gates}


def test_there_is_a_network_for_every_op_with_a_rule():
    assert set(NETS) == set(RULES) - REWRITTEN - GATES


@pytest.mark.parametrize("op", NETS, ids=str)
def test_channels_go_exactly_from_around_every_op(op):
    given = NETS[op]()
    assert op in {node.target for node in given.graph.graph.nodes}
    check_exact(given)


def test_every_rule_is_for_an_overload_or_for_a_gate():
    others = {target for target in RULES if not isinstance(target, torch._ops.OpOverload)}
    assert others == {VIBGate, apply_gates}


@pytest.mark.parametrize("name", ["lenet", "resnet18", "squeezenet1_1"])
def test_every_op_has_a_rule_or_no_labels(name):
    build, shape = ARCHITECTURES[name]
    with torch.device("meta"):  # the weights do not matter, and drawing them takes long
        model = build()
    graph = traced(model.to_empty(device="cpu").eval(), shape)
    labels = propagate(graph)
    calls = [node for node in graph.graph.nodes if node.op in ("call_function", "call_module")]
    labelled = [
        node
        for node in calls
        if any(part.factors for source in operands(node) for part in labels.tagged(source))
    ]
    assert [str(node.target) for node in labelled if rule_for(graph, node) is None] == []
    assert len(labelled) > len(calls) / 2
