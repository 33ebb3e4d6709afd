import pytest
import torch
from expecttest import TestCase
from networks import traced
from small_graphs import Calls, assert_same, exported, snapshot
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import vibfx
from vibfx.inputs import random_inputs
from vibfx.passes import FoldParameters, Functionalize

aten = torch.ops.aten


def standardised(net, x):
    """A convolution with a weight of mean 0 and variance 1 for each channel it makes."""
    w = net.a.weight
    mean, variance = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True)
    y = torch.conv2d(x, (w - mean) * torch.rsqrt(variance + 1e-5), net.a.bias)
    return net.b(torch.relu(y).mean((2, 3)))


def model():
    return Calls(standardised, a=nn.Conv2d(2, 4, 3), b=nn.Linear(4, 3)).eval()


def unfolded(net, *shape):
    return Functionalize()(exported(net, torch.randn(2, *shape))).graph_module


class Golden(TestCase):
    def test_before_and_after(self):
        module = unfolded(Calls(scaled, a=nn.Linear(3, 2)), 3)
        self.assertExpectedInline(
            vibfx.format_graph(module),
            """\
%a_weight: f32[2, 3] = attribute a.weight
%a_bias: f32[2] = attribute a.bias
%x: f32[N, 3] = input
%linalg_vector_norm: f32[] = aten.linalg_vector_norm(%a_weight)
%div: f32[2, 3] = aten.div.Tensor(%a_weight, %linalg_vector_norm)
%linear: f32[N, 2] = aten.linear(%x, %div, %a_bias)
return [%linear]
""",
        )
        result = FoldParameters()(module)
        assert result.modified
        self.assertExpectedInline(
            vibfx.format_graph(result.graph_module),
            """\
%a_bias: f32[2] = attribute a.bias
%x: f32[N, 3] = input
%folded_div_0: f32[2, 3] = attribute folded_div_0
%linear: f32[N, 2] = aten.linear(%x, %folded_div_0, %a_bias)
return [%linear]
""",
        )


def scaled(net, x):
    return torch.nn.functional.linear(x, net.a.weight / net.a.weight.norm(), net.a.bias)


def folded_names(module):
    return sorted(
        n for n, _ in module.named_parameters() if n.rpartition(".")[2].startswith("fold")
    )


@pytest.mark.parametrize(
    "build",
    [
        model,
        lambda: nn.Sequential(weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 3, 1)),
        lambda: nn.Sequential(spectral_norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Conv2d(4, 3, 1)),
    ],
    ids=["standardised", "weight norm", "spectral norm"],
)
def test_the_weight_is_worked_out_and_can_be_cut(build):
    net = build().eval()
    module = traced(net, (2, 5, 5))
    (name,) = folded_names(module)
    assert module.get_parameter(name).shape == (4, 2, 3, 3)
    assert module.get_parameter(name).requires_grad
    for batch in (1, 3):
        (x,) = random_inputs(module, batch, torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.allclose(module(x), net(x), atol=1e-6)
    assert vibfx.analyze(module).units == 4


def test_the_parameters_that_it_was_made_from_are_gone():
    module = traced(model(), (2, 5, 5))
    assert "a.weight" not in dict(module.named_parameters())
    assert "a.bias" in dict(module.named_parameters())
    assert vibfx.measure(module).parameters == sum(p.numel() for p in model().parameters())


def test_a_tied_weight_stays_tied():
    """What only moves or works element by element is not folded."""

    def forward(net, x):
        return torch.nn.functional.linear(torch.relu(net.a(x)), net.a.weight.t() * 2.0)

    module = traced(Calls(forward, a=nn.Linear(3, 4)), (3,))
    assert folded_names(module) == []
    assert sum(parameter.numel() for parameter in module.parameters()) == 16


def test_what_is_random_is_not_folded():
    def forward(net, x):
        noise = torch.rand_like(net.a.weight)
        return torch.nn.functional.linear(x, net.a.weight + noise.mean(), net.a.bias)

    module = traced(Calls(forward, a=nn.Linear(3, 2)), (3,))
    assert folded_names(module) == []


def test_what_reads_the_input_is_not_folded():
    def forward(net, x):
        return torch.nn.functional.linear(x, net.a.weight * x.mean(), net.a.bias)

    module = traced(Calls(forward, a=nn.Linear(3, 2)), (3,))
    assert folded_names(module) == []


def test_a_value_of_integers_is_not_trained():
    """A table of indices, such as relative positions, made from a parameter's order."""

    def forward(net, x):
        return net.a(x)[:, torch.argsort(net.a.bias.mean(0, keepdim=True).expand(4).cumsum(0))]

    module = traced(Calls(forward, a=nn.Linear(3, 4)), (3,))
    (name,) = folded_names(module)
    assert not module.get_parameter(name).requires_grad


def test_twice_changes_nothing_more():
    module = traced(model(), (2, 5, 5))
    before = snapshot(module)
    assert not FoldParameters()(module).modified
    assert_same(before, snapshot(module))


def test_works_in_place_as_the_clean_ups_of_tracing_do():
    module = unfolded(model(), 2, 5, 5)
    assert FoldParameters.in_place
    assert FoldParameters()(module).graph_module is module
