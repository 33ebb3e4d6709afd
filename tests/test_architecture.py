import dataclasses
import json

import pytest
import torch
from networks import Residual, gated, traced
from small_graphs import Calls
from torch import Tensor, nn

import vibfx
from vibfx.architecture import (
    Architecture,
    ModelInput,
    check_same,
    first_difference,
    parameter_shapes,
)
from vibfx.errors import PlanError
from vibfx.input_form import InputForm
from vibfx.passes import SetMode


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(7, 3), nn.Linear(3, 4)

    def forward(self, x, tokens, scale=1.0, more=None):
        y = self.layer(x + self.table(tokens)) * scale
        return y if more is None else y + more["a"][0]


def nested():
    more = {"a": [torch.ones(4), None]}
    tokens = torch.zeros(2, dtype=torch.int64)
    return vibfx.trace(Nested(), (torch.ones(2, 3), tokens), {"scale": 2.0, "more": more})


def test_inputs_in_full():
    assert Architecture.of(nested()).inputs == (
        ModelInput("x", InputForm((None, 3), "float32")),
        ModelInput("tokens", InputForm((None,), "int64")),
        ModelInput("scale", None, 2.0),
        ModelInput("more_a_0", InputForm((4,), "float32")),
        ModelInput("more_a_1", None),
    )


def test_examples_are_what_the_model_takes():
    found = Architecture.of(nested())
    model = Nested().double()
    args, kwargs = found.examples(model)
    assert [x.dtype for x in args] == [torch.float64, torch.int64]
    assert args[0].shape == (2, 3)
    assert kwargs["scale"] == 2.0
    assert kwargs["more"]["a"][0].shape == (4,)
    assert Architecture.of(vibfx.trace(model, args, kwargs)).operations == found.operations


def test_operations_in_full():
    graph = traced(nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.Flatten(), nn.Linear(8, 3)), (1, 5, 5))
    assert Architecture.of(graph).operations == (
        "aten.conv2d.default(input0, 0.weight, 0.bias, 2, 2)",
        "aten.flatten.using_ints(%0)",
        "aten.linear.default(%1, 2.weight, 2.bias)",
        "return(%2)",
    )


def test_json_comes_back_equal():
    found = Architecture.of(nested())
    fields = json.loads(json.dumps(dataclasses.asdict(found)))
    assert Architecture.from_fields(fields) == found


HOSTILE = {
    "a class to import": {"structure": {"defaultdict": ["antigravity", 0]}},
    "torch's own text": {"structure": '[1, {"type": "collections.defaultdict"}]'},
    "too few leaves": {"structure": {"tuple": [0]}},
    "a shape that is none": {"tensor": {"shape": [None, -1], "dtype": "float32"}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_what_a_stranger_s_file_says_is_no_more_than_data(change):
    fields = json.loads(json.dumps(dataclasses.asdict(Architecture.of(nested()))))
    assert Architecture.from_fields(fields).structure == fields["structure"]
    target = fields if "structure" in change else fields["inputs"][0]
    target.update(change)
    with pytest.raises((ValueError, TypeError)):
        Architecture.from_fields(fields)


def test_refuses_examples_of_what_is_not_known():
    with pytest.raises(PlanError, match="does not say what inputs") as caught:
        Architecture().examples(nn.Linear(2, 2))
    assert "--input" in caught.value.hint


def residual(side=8, **options):
    torch.manual_seed(0)
    return traced(Residual(4, **options), (1, side, side))


def test_gates_mode_precision_weights_and_size_do_not_enter():
    graph = residual()
    found, shapes = Architecture.of(graph), parameter_shapes(graph)
    module = gated(graph)
    assert Architecture.of(module) == found
    assert parameter_shapes(module) == shapes
    SetMode(training=True)(module)
    check_same(module, shapes, found)
    check_same(residual(16).bfloat16(), shapes, found)


def refusal(graph, other):
    with pytest.raises(PlanError) as caught:
        check_same(other, parameter_shapes(graph), Architecture.of(graph))
    assert caught.value.what.startswith("the plan is for another network: it has ")
    return caught.value


def layers(*parts: nn.Module):
    return traced(nn.Sequential(*parts), (4, 6, 6))


def conv(**options):
    return nn.Conv2d(4, 4, 3, padding=1, **options)


def test_refuses_a_missing_and_an_extra_parameter():
    graph, other = layers(conv()), layers(conv(bias=False))
    error = refusal(graph, other)
    assert error.where == "0.bias"
    assert error.what.endswith("it has shape (4,) where this graph has no such parameter")
    error = refusal(other, graph)
    assert error.where == "0.bias"
    assert error.what.endswith("it has no such parameter where this graph has shape (4,)")


def test_refuses_another_stride_at_its_node():
    error = refusal(layers(conv(), nn.ReLU()), layers(conv(stride=2), nn.ReLU()))
    assert error.what.endswith(
        "aten.conv2d.default(input0, 0.weight, 0.bias, 1, 1, 1, 1) where this graph has "
        "aten.conv2d.default(input0, 0.weight, 0.bias, 2, 2, 1, 1)"
    )
    assert error.where.startswith("conv2d in 0 ")


def test_refuses_a_layer_in_between_and_one_at_the_end():
    plain = layers(conv(), nn.Identity(), nn.ReLU())
    pooled = layers(conv(), nn.MaxPool2d(3, 1, 1), nn.ReLU())
    error = refusal(plain, pooled)
    assert "aten.relu.default(%0) where this graph has aten.max_pool2d" in error.what
    assert "in 1 " in error.where
    error = refusal(pooled, layers(conv(), nn.MaxPool2d(3, 1, 1)))
    assert error.where == "output"


def test_refuses_operands_in_another_order():
    parts = {"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}
    graphs = [
        traced(Calls(forward, **parts), (3,))
        for forward in (lambda net, x: net.a(x) - net.b(x), lambda net, x: net.b(x) - net.a(x))
    ]
    assert "sub" in refusal(*graphs).what or "linear" in refusal(*graphs).what


def test_a_network_of_which_nothing_is_known_is_any():
    check_same(residual(), {"none": (1,)}, Architecture())


def test_the_first_difference():
    shapes, lines = {"a": (1,), "b": (2,)}, ("x", "y")
    assert first_difference((shapes, lines), (dict(shapes), list(lines))) is None
    found = first_difference((shapes, lines), ({"a": (1,), "b": (3,)}, lines))
    assert (found.name, found.first, found.second) == ("b", "shape (2,)", "shape (3,)")
    found = first_difference((shapes, lines), (shapes, ("x",)))
    assert (found.name, found.second, found.operation) == ("operation 1", "nothing more", 1)


def test_a_model_of_several_results_is_described():
    model = Calls(lambda net, x: (net.a(x), {"b": x}), a=nn.Linear(3, 3))
    graph = traced(model, (3,))
    assert Architecture.of(graph).operations[-1] == "return(%0, input0)"
    assert isinstance(graph(torch.zeros(2, 3))[0], Tensor)
