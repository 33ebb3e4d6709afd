import dataclasses

import pytest
import torch
from networks import gated, randomize, traced
from small_graphs import Calls, assert_same, dense, plain, set_gate, snapshot
from torch import nn

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError
from vibfx.passes import PruneChannels, SetMode

SHAPE = (1, 5, 5)


def shut_plain():
    module = gated(plain())
    set_gate(module, "gates.conv", (1.5, 0.0, 0.5, 0.0))
    randomize(module, SHAPE)
    return module


def cut(module):
    return PruneChannels(vibfx.plan(module))(module).graph_module


def refusal(reference, candidate, **options):
    with pytest.raises(EquivalenceError) as caught:
        vibfx.verify(reference, candidate, **options)
    assert caught.value.exit_code == 1
    return caught.value


def test_equal_graphs_pass_and_say_what_was_measured():
    graph = plain()
    randomize(graph, SHAPE)
    found = vibfx.verify(graph, copy_graph_module(graph))
    assert found.error == 0.0
    assert found.runs == 4
    assert 1e-3 < found.sensitivity <= 2.0
    assert vibfx.verify(graph, graph, batch_sizes=(1, 2, 7)).runs == 6


def test_sensitivity_is_the_change_of_the_output_over_its_size():
    """``y = 1000 + x``: on inputs of about 1 the output changes by a few thousandths."""
    graph = traced(Calls(lambda s, x: s.f(x), f=nn.Linear(1, 1)), (1,))
    with torch.no_grad():
        graph.get_parameter("f.weight").fill_(1.0)
        graph.get_parameter("f.bias").fill_(1000.0)
    other = copy_graph_module(graph)
    with torch.no_grad():
        other.get_parameter("f.bias").add_(0.5)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(2, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    change, size = (a - b).abs().max().item(), max((1000 + a).max(), (1000 + b).max()).item()
    found = vibfx.verify(graph, other, tolerance=10.0, batch_sizes=(2,), seed=3)
    assert found.sensitivity == pytest.approx(change / size, rel=1e-9)
    assert found.error == pytest.approx(0.5 / change, rel=1e-9)


def test_a_cut_graph_passes():
    module = shut_plain()
    assert vibfx.verify(module, cut(module)).error < 1e-12


def test_the_graphs_are_not_touched_whatever_their_mode():
    module = shut_plain()
    small = cut(module)
    SetMode(training=True)(module)
    before = snapshot(module), snapshot(small)
    state = torch.get_rng_state()
    vibfx.verify(module, small)
    assert_same(before[0], snapshot(module))
    assert_same(before[1], snapshot(small))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_changed_weight_is_found_and_its_layer_named():
    module = shut_plain()
    small = cut(module)
    with torch.no_grad():
        small.get_parameter("norm.weight")[0] += 1e-3
    error = refusal(module, small)
    assert error.what.startswith("the rewritten graph computes something else: relative error ")
    assert "allowed 1e-09; the first node that differs is batch_norm (by " in error.what
    assert error.where.startswith("batch_norm in norm (")


def test_the_first_of_several_differing_nodes_is_named():
    module = dense()
    small = copy_graph_module(module)
    with torch.no_grad():
        small.get_parameter("head.bias")[0] += 1.0
        small.get_parameter("conv2.bias")[0] += 1.0
    error = refusal(module, small)
    assert "the first node that differs is conv2d_2 " in error.what
    assert error.where.startswith("conv2d_2 in conv2")


def test_a_wrong_kept_index_is_found():
    module = shut_plain()
    plan = vibfx.plan(module)
    wrong = dataclasses.replace(
        plan,
        parameters={name: dict.fromkeys(dims, (0, 1)) for name, dims in plan.parameters.items()},
    )
    error = refusal(module, PruneChannels(wrong)(module).graph_module)
    # Each channel is what its index says; what is missing shows where they are summed.
    assert error.what.startswith("the rewritten graph computes something else")
    assert error.where.startswith("linear in head (")


def test_rows_that_were_swapped_are_found_where_they_are():
    module = shut_plain()
    small = cut(module)
    with torch.no_grad():
        weight = small.get_parameter("conv.weight")
        weight.copy_(weight.flip(0).clone())
    error = refusal(module, small)
    assert error.where.startswith("conv2d in conv (")


def test_another_shape_of_the_output_is_found():
    module = plain()
    small = copy_graph_module(module)
    head = small.get_submodule("head")
    head.weight, head.bias = (nn.Parameter(p[:2].detach()) for p in (head.weight, head.bias))
    error = refusal(module, small)
    assert error.what == "the outputs have other shapes: [(3, 2)] instead of [(3, 3)]"
    assert error.where == "Plain"


def test_another_number_of_outputs_is_found():
    model = Calls(lambda s, x: (s.f(x), x), f=nn.Linear(3, 2))
    fewer = Calls(lambda s, x: (s.f(x),), f=nn.Linear(3, 2))
    error = refusal(traced(model, (3,)), traced(fewer, (3,)))
    assert error.what == "the outputs have other shapes: [(3, 2)] instead of [(3, 2), (3, 3)]"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_candidate_that_is_not_finite_is_found(value):
    module = shut_plain()
    small = cut(module)
    with torch.no_grad():
        small.get_parameter("head.bias")[1] = value
    error = refusal(module, small)
    assert error.what.startswith(
        "the rewritten graph computes something else: relative error inf, allowed 1e-09"
    )
    assert error.where.startswith("linear in head (")


def test_a_reference_that_is_not_finite_proves_nothing():
    module = plain()
    with torch.no_grad():
        module.get_parameter("head.bias")[1] = float("nan")
    error = refusal(module, copy_graph_module(module))
    assert "relative error nan" in error.what


def test_a_constant_network_proves_nothing():
    module = gated(plain())
    set_gate(module, "gates.conv", (0.0, 0.0, 0.0, 0.0))
    error = refusal(module, copy_graph_module(module))
    assert error.what == (
        "the check can tell nothing: the reference's output does not depend on its input"
    )
    assert error.hint.startswith("A gate that governs every path has no open unit")


def test_an_output_that_only_rounding_moves_proves_nothing():
    module = plain()
    with torch.no_grad():
        module.get_parameter("head.weight").mul_(1e-20)
        module.get_parameter("head.bias").fill_(1.0)
    assert "can tell nothing" in refusal(module, copy_graph_module(module)).what


def test_the_tolerance_decides():
    module = shut_plain()
    small = cut(module)
    with torch.no_grad():
        small.get_parameter("head.bias")[0] += 1e-4
    error = vibfx.verify(module, small, tolerance=1e-2).error
    assert 1e-6 < error < 1e-2
    assert vibfx.verify(module, small, tolerance=error * 1.01).error == error
    assert f"relative error {error:.2e}" in refusal(module, small, tolerance=error * 0.99).what


def logistic(steps, rate=1.0):
    """The logistic map, which doubles a small difference at every step."""

    def forward(self, x):
        x = torch.sigmoid(x)
        for _ in range(steps):
            x = 4 * self.rate * x * (1 - x)
        return x

    model = Calls(forward)
    model.rate = nn.Parameter(torch.tensor([1.0]))
    graph = traced(model, (3,)).double()
    with torch.no_grad():
        graph.get_parameter("rate").fill_(rate)
    return graph


LAST_BIT = 1 - 2.0**-53


def test_what_rounding_does_to_a_network_passes():
    found = vibfx.verify(logistic(28), logistic(28, LAST_BIT))
    assert 1e-9 < found.error <= found.allowed < 1e-3
    calm = vibfx.verify(logistic(2), logistic(2, LAST_BIT))
    assert calm.error < calm.allowed == 1e-9


def test_more_than_rounding_does_not_pass():
    error = refusal(logistic(28), logistic(28, 1 - 1e-11))
    assert "computes something else" in str(error)


def test_a_chaotic_network_proves_nothing():
    error = refusal(logistic(70), logistic(70, LAST_BIT))
    assert "rounding alone changes the reference's output" in str(error)


def test_a_difference_at_one_batch_size_only_is_found():
    """A candidate with the batch written into it agrees on that batch alone."""

    def forward(self, x):
        return self.f(x) * (x.shape[0] + 1)

    torch.manual_seed(0)
    graph = traced(Calls(forward, f=nn.Linear(3, 2)), (3,))
    fixed = traced(Calls(lambda s, x: s.f(x) * 4, f=nn.Linear(3, 2)), (3,))
    fixed.load_state_dict(graph.state_dict())
    assert vibfx.verify(graph, fixed, batch_sizes=(3,)).error < 1e-12
    assert "computes something else" in refusal(graph, fixed, batch_sizes=(3, 5)).what


def test_the_seed_decides_on_the_inputs():
    module = shut_plain()
    small = cut(module)
    assert vibfx.verify(module, small, seed=1) == vibfx.verify(module, small, seed=1)
    first, second = (vibfx.verify(module, small, seed=s).sensitivity for s in (1, 2))
    assert first != second


def test_float32_graphs_are_compared_in_float64():
    module = shut_plain()
    assert vibfx.verify(module, module.float()).error == 0.0
    small = cut(module)
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert vibfx.verify(module, small, tolerance=1e-14).error < 1e-14
