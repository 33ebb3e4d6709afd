import pytest
import torch
from expecttest import TestCase
from networks import gated, traced
from small_graphs import Calls, Plain, assert_same, exported, outputs, plain, snapshot
from torch import nn

import vibfx
from vibfx.errors import GraphError
from vibfx.gates import gates_of
from vibfx.passes import SetMode


def with_dropout():
    torch.manual_seed(0)
    return traced(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), (3,))


class Golden(TestCase):
    def test_before_and_after(self):
        torch.manual_seed(0)
        layers = (nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.Dropout1d(0.2), nn.Dropout(0.3))
        graph = traced(nn.Sequential(*layers), (1, 4))
        self.assertExpectedInline(
            _calls(graph),
            """\
%conv1d: f32[N, 2, 4] = aten.conv1d(%input_1, %_0_weight, %_0_bias)  # 0
%batch_norm: f32[N, 2, 4] = aten.batch_norm(%conv1d, %_1_weight, %_1_bias, %_1_running_mean, %_1_running_var, False, 0.1, 1e-05, False)  # 1
%feature_dropout: f32[N, 2, 4] = aten.feature_dropout(%batch_norm, 0.2, False)  # 2
%dropout: f32[N, 2, 4] = aten.dropout(%feature_dropout, 0.3, False)  # 3""",  # noqa: E501
        )
        assert SetMode(training=True)(graph).modified
        self.assertExpectedInline(
            _calls(graph),
            """\
%conv1d: f32[N, 2, 4] = aten.conv1d(%input_1, %_0_weight, %_0_bias)  # 0
%batch_norm: f32[N, 2, 4] = aten.batch_norm(%conv1d, %_1_weight, %_1_bias, %_1_running_mean, %_1_running_var, True, 0.1, 1e-05, False)  # 1
%feature_dropout: f32[N, 2, 4] = aten.feature_dropout(%batch_norm, 0.2, True)  # 2
%dropout: f32[N, 2, 4] = aten.dropout(%feature_dropout, 0.3, True)  # 3""",  # noqa: E501
        )


def _calls(graph):
    return "\n".join(line for line in vibfx.format_graph(graph).splitlines() if " = aten" in line)


def test_training_mode_is_the_models_own():
    torch.manual_seed(0)
    model = Plain()
    graph = traced(model, (1, 5, 5))
    SetMode(training=True)(graph)
    x = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    model.train()
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)
    statistics = graph.get_buffer("norm.running_mean")
    torch.testing.assert_close(statistics, model.norm.running_mean, rtol=0, atol=1e-7)
    assert statistics.abs().sum() > 0


def test_evaluation_mode_gives_back_the_same_numbers():
    graph = with_dropout()
    expected = outputs(graph, (3,))
    SetMode(training=True)(graph)
    assert not torch.equal(outputs(graph, (3,)), outputs(graph, (3,)))
    SetMode(training=False)(graph)
    assert torch.equal(outputs(graph, (3,)), expected)


def test_gates_follow():
    graph = gated(plain())
    (gate,) = gates_of(graph).values()
    assert not gate.training
    SetMode(training=True)(graph)
    assert gate.training
    assert graph.training
    assert not torch.equal(outputs(graph, (1, 5, 5)), outputs(graph, (1, 5, 5)))


def test_a_norm_without_statistics_takes_those_of_the_batch_in_either_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2, track_running_stats=False))
    graph = traced(model, (1, 4))
    for training in (True, False):
        SetMode(training=training)(graph)
        assert torch.equal(outputs(graph, (1, 4)), outputs(model, (1, 4)))


def test_a_cumulative_average_moves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2, momentum=None))
    graph = exported(model, torch.randn(2, 1, 4))
    assert SetMode(training=False)(graph).modified
    assert not SetMode(training=False)(graph).modified
    SetMode(training=True)(graph)
    outputs(graph, (1, 4))
    assert graph.get_buffer("1.running_mean").abs().min() > 0


NORMALIZED = nn.InstanceNorm1d(4, affine=True, track_running_stats=True, momentum=1.0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AlphaDropout(0.5),
        nn.FeatureAlphaDropout(0.5),
        nn.RReLU(0.1, 0.9),
        NORMALIZED,
        nn.InstanceNorm1d(4),
        nn.GRU(8, 8, num_layers=2, dropout=0.5, batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_op_that_asks_for_the_mode_is_told(layer):
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.layer(x) if s.plain else s.layer(x)[0], layer=layer)
    model.plain = not isinstance(layer, nn.RNNBase)
    graph, x = traced(model, (4, 8)), torch.randn(2, 4, 8)
    evaluated = model.eval()(x)
    SetMode(training=True)(graph)
    torch.manual_seed(1)
    trained = graph(x)
    torch.manual_seed(1)
    assert torch.equal(trained, model.train()(x))
    assert torch.equal(trained, evaluated) == (
        type(layer) is nn.InstanceNorm1d and not layer.affine
    )
    SetMode(training=False)(graph)
    assert torch.equal(graph(x), model.eval()(x))


def test_attention_drops_nothing_in_evaluation():
    attention = nn.functional.scaled_dot_product_attention
    torch.manual_seed(0)
    model = Calls(lambda s, x: s.layer(attention(x, x, x, dropout_p=0.5)), layer=nn.Linear(4, 2))
    graph = exported(model, torch.randn(2, 3, 4))
    assert SetMode(training=False)(graph).modified
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(graph(x), model.layer(attention(x, x, x)), rtol=0, atol=1e-6)
    assert not SetMode(training=False)(graph).modified


def test_refuses_a_graph_that_breaks_the_rules():
    graph = with_dropout()
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default):
        node.target = torch.ops.aten.dropout_.default
    with pytest.raises(GraphError, match=r"aten.dropout_.default writes to its input") as caught:
        SetMode(training=True)(graph)
    assert caught.value.__notes__ == ["in pass set-mode"]


@pytest.mark.parametrize("training", [True, False])
def test_twice_changes_nothing_more(training):
    graph = gated(plain())
    SetMode(training=not training)(graph)
    assert SetMode(training=training)(graph).modified
    before = snapshot(graph)
    assert not SetMode(training=training)(graph).modified
    assert_same(before, snapshot(graph))


def test_is_declared_to_work_in_place():
    graph = plain()
    assert SetMode.in_place
    assert SetMode(training=True)(graph).graph_module is graph
