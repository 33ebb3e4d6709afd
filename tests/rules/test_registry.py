"""The table of rules: one rule an op, and none missing for the networks of the tests."""

import pytest
import torch
from networks import ARCHITECTURES, traced
from torch import fx, nn

from vibfx.gates import VIBGate, apply_gates
from vibfx.graph import operands
from vibfx.propagation import propagate
from vibfx.rules import RULES, OpRule, Zero, registry, rule, rule_for

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
    relu, sigmoid = RULES[aten.relu.default], RULES[aten.sigmoid.default]
    assert relu.labels is sigmoid.labels
    assert relu.zero is Zero.FIRST
    assert sigmoid.zero is None


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
    unknown = graph.call_function(aten.cumsum.default, (x, 0))
    gate, other = graph.call_module("gate", (x,)), graph.call_module("other", (x,))
    module = fx.GraphModule({"gate": VIBGate(3), "other": nn.ReLU()}, graph)
    assert rule_for(module, call) is RULES[aten.relu.default]
    assert rule_for(module, gate) is RULES[VIBGate]
    assert [rule_for(module, node) for node in (x, unknown, other)] == [None, None, None]


def test_every_rule_is_for_an_overload_or_for_a_gate():
    others = {target for target in RULES if not isinstance(target, torch._ops.OpOverload)}
    assert others == {VIBGate, apply_gates}


@pytest.mark.parametrize("name", ARCHITECTURES)
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
