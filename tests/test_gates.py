import math

import pytest
import torch
from networks import gated, traced
from small_graphs import Dense, plain
from torch import nn

import vibfx
from vibfx.gates import VIBGate, apply_gates, gates_of, information


def gate_of(mu, sigma=None, **options):
    gate = VIBGate(len(mu), **options)
    with torch.no_grad():
        gate.mu.copy_(torch.tensor(mu))
        if sigma is not None:
            gate.log_sigma2.copy_(2.0 * torch.tensor(sigma).log())
    return gate


def test_a_new_gate_is_one_with_little_noise():
    gate = VIBGate(3)
    assert gate.units == 3
    assert torch.equal(gate.mu, torch.ones(3))
    assert torch.equal(gate.log_sigma2, torch.full((3,), -9.0))
    assert torch.equal(gate.eval()(torch.zeros(2, 3)), torch.ones(1, 3))
    assert torch.equal(gate.open(), torch.ones(3, dtype=torch.bool))
    assert {n for n, _ in gate.named_parameters()} == {"mu", "log_sigma2"}


def test_training_noise_has_the_gates_mean_and_variance():
    mu, sigma = [1.0, -0.5, 0.0, 2.0], [0.5, 1.0, 2.0, 0.1]
    gate = gate_of(mu, sigma).train()
    torch.manual_seed(0)
    draws = 200_000
    values = gate(torch.empty(draws, 4)).detach()
    assert values.shape == (draws, 4)
    sigma = torch.tensor(sigma)
    # Five standard errors of a mean (sigma / sqrt n) and of a variance (sigma^2 sqrt(2 / n)).
    assert ((values.mean(0) - torch.tensor(mu)).abs() < 5 * sigma / draws**0.5).all()
    gap = (values.var(0) - sigma**2).abs()
    assert (gap < 5 * sigma**2 * (2 / draws) ** 0.5).all()
    # Units and examples draw on their own.
    noise = (values - torch.tensor(mu)) / sigma
    correlation = (noise.T @ noise / draws).fill_diagonal_(0.0)
    assert correlation.abs().max() < 5 / draws**0.5
    assert (noise[1:] * noise[:-1]).mean(0).abs().max() < 5 / draws**0.5


def test_training_noise_carries_gradients_to_mean_and_variance():
    gate = gate_of([1.0, 2.0], [0.5, 0.25]).train()
    torch.manual_seed(0)
    values = gate(torch.empty(3, 2))
    values.sum().backward()
    assert torch.equal(gate.mu.grad, torch.full((2,), 3.0))
    # d(eps * exp(s / 2)) / ds = eps * exp(s / 2) / 2 = (value - mu) / 2
    expected = ((values - gate.mu) / 2).sum(0).detach()
    torch.testing.assert_close(gate.log_sigma2.grad, expected, rtol=1e-6, atol=0)


def test_one_draw_serves_all_where_dimension_0_is_no_batch():
    gate = gate_of([1.0, 2.0], [0.5, 0.5]).train()
    torch.manual_seed(0)
    assert gate(torch.empty(5, 2), False).shape == (1, 2)
    assert gate(torch.empty(5, 2)).unique(dim=0).shape == (5, 2)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -2.0])
def test_evaluation_shuts_at_or_below_the_threshold(threshold):
    """``log_alpha`` is exactly below, at and above it."""
    gate = VIBGate(3, threshold=threshold).eval()
    with torch.no_grad():
        gate.log_sigma2.copy_(-torch.tensor([threshold - 0.5, threshold, threshold + 0.5]))
    assert gate.log_alpha().tolist() == [threshold - 0.5, threshold, threshold + 0.5]
    assert gate.open().tolist() == [False, False, True]
    assert gate(torch.zeros(4, 3)).tolist() == [[0.0, 0.0, 1.0]]


def test_log_alpha_is_the_squared_mean_over_the_variance():
    gate = gate_of([3.0, -3.0, 0.5], [0.5, 0.5, 2.0])
    expected = [math.log(36.0), math.log(36.0), math.log(0.0625)]
    torch.testing.assert_close(gate.log_alpha(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert gate.open().tolist() == [True, True, False]
    values = gate.eval()(torch.zeros(1, 3))
    assert values.tolist() == [[3.0, -3.0, 0.0]]


def test_a_mean_of_zero_shuts_whatever_the_variance_and_threshold():
    gate = gate_of([0.0, 1.0], threshold=-1e9).eval()
    assert gate.log_alpha()[0] == -math.inf
    assert gate.open().tolist() == [False, True]
    assert gate(torch.zeros(2, 2)).tolist() == [[0.0, 1.0]]


def test_evaluation_draws_nothing():
    gate = VIBGate(4).eval()
    state = torch.get_rng_state()
    assert torch.equal(gate(torch.zeros(2, 4)), gate(torch.zeros(2, 4)))
    assert torch.equal(torch.get_rng_state(), state)


def test_information_is_the_papers_sum_and_its_gradient():
    mu, sigma = [1.0, -0.5, 2.0], [0.5, 1.5, 0.25]
    gate = gate_of(mu, sigma).double()
    ratios = [m * m / (s * s) for m, s in zip(mu, sigma, strict=True)]
    value = gate.information()
    expected = sum(math.log(1 + r) for r in ratios)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    by_mu = [2 * m / (s * s + m * m) for m, s in zip(mu, sigma, strict=True)]
    by_log_sigma2 = [-r / (1 + r) for r in ratios]
    assert gate.mu.grad.tolist() == pytest.approx(by_mu, rel=1e-6)
    assert gate.log_sigma2.grad.tolist() == pytest.approx(by_log_sigma2, rel=1e-6)


def test_information_at_a_mean_of_zero_is_zero_with_finite_gradients():
    gate = gate_of([0.0, 0.0])
    value = gate.information()
    value.backward()
    assert value.item() == 0.0
    assert gate.mu.grad.tolist() == [0.0, 0.0]
    assert gate.log_sigma2.grad.tolist() == [0.0, 0.0]


def test_information_of_a_module_weighs_gate_by_gate():
    torch.manual_seed(0)
    module = gated(traced(Dense(), (1, 4, 4)))
    gates = gates_of(module)
    assert list(gates) == ["gates.stem", "gates.conv1", "gates.conv2"]
    with torch.no_grad():
        for gate in gates.values():
            gate.mu.uniform_(0.5, 1.5)
    single = {name: gate.information().item() for name, gate in gates.items()}
    assert information(module).item() == pytest.approx(sum(single.values()), rel=1e-6)
    assert information(module, 0.25).item() == pytest.approx(sum(single.values()) / 4, rel=1e-6)
    weights = {"gates.stem": 1.0, "gates.conv1": 0.0, "gates.conv2": 3.0}
    expected = single["gates.stem"] + 3.0 * single["gates.conv2"]
    assert information(module, weights).item() == pytest.approx(expected, rel=1e-6)
    information(module, weights).backward()
    assert gates["gates.conv1"].mu.grad.abs().max() == 0.0
    assert gates["gates.conv2"].mu.grad.abs().min() > 0.0


def test_information_without_gates_is_zero():
    assert information(nn.Linear(2, 2)).item() == 0.0
    assert gates_of(plain()) == {}


def test_gates_are_found_by_their_path():
    assert [(n, g.units) for n, g in gates_of(gated(plain())).items()] == [("gates.conv", 4)]
    gate = VIBGate(2)
    assert gates_of(nn.ModuleDict({"a": nn.ModuleDict({"b": gate})})) == {"a.b": gate}


def test_apply_without_an_index_goes_along_dimension_1():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    one_row = torch.tensor([[1.0, 0.0, -2.0]])
    rows = torch.tensor([[1.0, 0.0, -2.0], [3.0, 0.5, 1.0]])
    for values in (one_row, rows):
        result = apply_gates(x, [values])
        for n in range(2):
            for c in range(3):
                assert torch.equal(result[n, c], x[n, c] * values[min(n, len(values) - 1), c])
    assert torch.equal(apply_gates(x[:, :, 0, 0], [rows]), x[:, :, 0, 0] * rows)


@pytest.mark.parametrize("rows", [1, 5])
def test_apply_to_channels_that_lie_together_is_the_same_and_leaves_them_so(rows):
    torch.manual_seed(0)
    x, row = torch.randn(5, 6, 3, 4), torch.randn(rows, 6)
    towards = torch.randn_like(x)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.clone(memory_format=memory_format).requires_grad_()
        values = row.clone().requires_grad_()
        result = apply_gates(given, [values])
        assert result.is_contiguous(memory_format=memory_format)
        found.append((result, *torch.autograd.grad(result, (given, values), towards)))
    for usual, last in zip(*found, strict=True):
        torch.testing.assert_close(last, usual, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[0][0], found[1][0])


def test_apply_with_an_index_and_several_gates():
    """Entries 0 and 1 are the first gate's, 2 to 4 the second's, 5 the final 1."""
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    first = torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    second = torch.tensor([[10.0, 11.0, 12.0], [13.0, 14.0, 15.0]])
    index = torch.tensor([4, 0, 5, 1, 1, 2])
    result = apply_gates(x, [first, second], index[:, None])
    for n in range(2):
        row = [*first[n].tolist(), *second[n].tolist(), 1.0]
        for c in range(6):
            assert torch.equal(result[n, c], x[n, c] * row[index[c]])
    assert torch.equal(result[:, 2], x[:, 2])


def test_apply_with_an_index_of_every_element():
    x = torch.arange(1.0, 9.0).reshape(2, 2, 2)
    values = torch.tensor([[2.0, 3.0]])
    result = apply_gates(x, [values], torch.tensor([[0, 1], [1, 2]]))
    assert result.tolist() == [[[2.0, 6.0], [9.0, 4.0]], [[10.0, 18.0], [21.0, 8.0]]]


def test_apply_to_what_has_no_batch():
    """The index covers dimension 0 as well."""
    x = torch.arange(1.0, 7.0).reshape(3, 2)
    values = torch.tensor([[2.0, 3.0]])
    result = apply_gates(x, [values], torch.tensor([[1], [2], [0]]), False)
    assert result.tolist() == [[3.0, 6.0], [3.0, 4.0], [10.0, 12.0]]
    assert result.shape == x.shape


def test_apply_keeps_the_type_of_what_is_gated():
    x = torch.ones(2, 3, dtype=torch.float64)
    values = torch.full((1, 3), 0.5)
    assert apply_gates(x, [values]).dtype == torch.float64
    assert apply_gates(x, [values], torch.tensor([0, 1, 3])).tolist() == [[0.5, 0.5, 1.0]] * 2
    assert apply_gates(x, [values], torch.tensor([0, 1, 3])).dtype == torch.float64


def test_apply_hands_gradients_to_its_gates():
    x = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    values = torch.ones(1, 2, requires_grad=True)
    apply_gates(x, [values], torch.tensor([1, 1, 2])).sum().backward()
    assert values.grad.tolist() == [[0.0, 27.0]]


def test_a_gate_says_what_it_is():
    assert repr(VIBGate(3, threshold=1.5)) == "VIBGate(units=3, threshold=1.5)"


def test_public_names_are_those_of_the_module():
    assert vibfx.VIBGate is VIBGate
    assert vibfx.information is information
