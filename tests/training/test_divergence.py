"""The place where a network stops making numbers."""

import math

import pytest
import torch
from networks import traced
from torch import nn

from vibfx.training.divergence import divergence, first_broken
from vibfx.training.meter import Diverged


def network():
    torch.manual_seed(0)
    return traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))


@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_a_parameter_that_is_no_number_is_named(name):
    module = network()
    with torch.no_grad():
        module.get_parameter(name)[0] = math.inf
    assert first_broken(module, torch.ones(2, 3)) == name


def test_an_op_that_overflows_is_named_with_its_module():
    module = network()
    with torch.no_grad():
        module.get_parameter("0.weight").fill_(1e38)
    found = first_broken(module, torch.full((2, 3), 1e38))
    assert found.startswith("linear in 0")


def test_an_input_that_is_no_number_is_named():
    assert first_broken(network(), torch.full((2, 3), math.nan)) == "the model's input"


def test_where_all_is_finite_no_place_is_named():
    module = network()
    assert first_broken(module, torch.ones(2, 3)) is None
    error = divergence(module, torch.ones(2, 3), Diverged(7, 1e9))
    assert error.where is None
    assert error.what == "training diverged: the loss is 1e+09 at step 7"
    assert divergence(module, None, Diverged(1, math.nan)).where is None
