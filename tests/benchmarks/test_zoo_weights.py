"""Weights after randomisation, and Torch-Pruning's side on small networks."""

import pytest
import torch
from torch import nn
from zoo.baseline import Reads, makers_of_output, zero_columns
from zoo.numbers import compare
from zoo.weights import calibrating, gain, randomize


def test_nothing_stays_zero():
    layer = nn.Linear(8, 4)
    nn.init.zeros_(layer.weight)
    scale = nn.Parameter(torch.full((4, 1, 1), 1e-6))
    randomize([*layer.named_parameters(), ("scale", scale)])
    assert gain(layer.weight) > 0.5
    assert float(scale.abs().min()) > 1e-4
    assert float(layer.bias.std()) > 0.05


def test_what_is_large_enough_stays():
    weight = torch.randn(16, 16)
    before = weight.clone()
    randomize([("weight", weight)])
    assert torch.equal(weight, before)


def test_batch_norms_take_the_next_batch():
    model = nn.Sequential(nn.BatchNorm1d(3))
    x = 5 + torch.randn(50, 3)
    with calibrating(model):
        model(x)
    assert torch.allclose(model[0].running_mean, x.mean(0), atol=1e-5)
    assert not model[0].training
    assert model[0].momentum == 0.1


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_zero_columns_is_a_zero_input(kind, groups):
    layer, x = kind(4, 6, 3, groups=groups), torch.randn(2, 4, 8, 8)
    without = x.clone()
    without[:, [1, 3]] = 0
    expected = layer(without)
    zero_columns(layer, [1, 3])
    assert torch.allclose(layer(x), expected, atol=1e-6)


class Dependency:
    """One entry of a Torch-Pruning group, as far as it is read."""

    def __init__(self, module, name="prune_in_channels"):
        self.target = type("Target", (), {"module": module})
        self.handler = type("Handler", (), {"__name__": name})()


def test_channels_are_counted_in_the_original_numbering():
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    record = Reads(model)
    record.note([(Dependency(model[1]), [0, 1])])  # 0 and 1 go; 2 3 4 5 are left
    record.note([(Dependency(model[1]), [1]), (Dependency(model[0], "prune_out_channels"), [1])])
    gone = (record.masked[1].weight == 0).all(0)
    assert gone.nonzero().flatten().tolist() == [0, 1, 3]
    assert not (record.masked[0].weight == 0).any()


def test_makers_of_output_are_the_last_layers():
    body, head = nn.Linear(3, 6), nn.Linear(6, 2)
    model = nn.Sequential(body, nn.ReLU(), head, nn.LayerNorm(2), nn.Sigmoid())
    assert makers_of_output(model, torch.randn(2, 3)) == [head]


def test_compare_divides_by_the_change_between_inputs():
    a, b = [torch.zeros(2)], [torch.full((2,), 4.0)]
    close = [torch.full((2,), 4.1, dtype=torch.float64)]
    assert compare([(a, a), (b, close)]) == pytest.approx(0.1 / 4, rel=1e-5)
    assert compare([(a, a), (a, a)]) == float("inf")  # nothing depends on the input
    assert compare([(a, [torch.zeros(3)]), (b, b)]) == float("inf")
    assert compare([(a, [torch.tensor([0.0, float("nan")])]), (b, b)]) == float("inf")
