import pytest
import torch
from applied_networks import moved
from networks import Residual
from torch import Tensor, nn

import vibfx
from vibfx.applying.agreement import TOLERANCE, Pair, distance, runs_in_training
from vibfx.errors import EquivalenceError


def pair_of(module, graph, dtype=torch.float64):
    return Pair.of(module, graph, dtype)


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(0)
    model = moved(Residual(4))
    return model, vibfx.trace(model, torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_agrees_with_its_graph(residual, dtype):
    model, graph = residual
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert pair_of(model, graph, dtype).error() < TOLERANCE / 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_weight_that_is_a_little_off_shows(residual):
    model, graph = residual
    with torch.no_grad():
        model.block1.conv2.weight[0, 0, 0, 0] += 0.01
    try:
        assert pair_of(model, graph).error() > TOLERANCE
    finally:
        with torch.no_grad():
            model.block1.conv2.weight[0, 0, 0, 0] -= 0.01


class Scaled(nn.Module):
    """What is behind the scale of zero does not show."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.layer, self.scale, self.sign = nn.Linear(3, 3), nn.Parameter(torch.zeros(3)), sign

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.sign * self.layer(x)


def test_a_weight_of_zero_hides_nothing():
    torch.manual_seed(0)
    one, other = Scaled(1.0), Scaled(-1.0)
    other.load_state_dict(one.state_dict())
    graph = vibfx.trace(one, torch.randn(2, 3))
    assert pair_of(one, graph).error() == 0.0
    assert pair_of(other, graph).error() > TOLERANCE


def test_refuses_outputs_that_do_not_depend_on_the_input():
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    with pytest.raises(EquivalenceError, match="does not depend on its input"):
        pair_of(model, vibfx.trace(model, torch.randn(2, 3))).error()


def test_other_shapes_are_infinitely_far():
    x = torch.zeros(2, 3)
    assert distance([x], [x.T]) == float("inf")
    assert distance([x], [x * float("nan")]) == float("inf")
    assert distance([x], [x + 2]) == 2.0


def test_training_runs_or_says_why_not():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
    graph = vibfx.trace(model, torch.randn(2, 3))
    state = torch.random.get_rng_state()
    assert runs_in_training(model, graph) is None
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    model[2] = nn.Linear(5, 2)
    assert "shapes cannot be multiplied" in str(runs_in_training(model, graph))
