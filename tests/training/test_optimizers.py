"""An optimizer goes on with smaller parameters and what it knew of them."""

import pytest
import torch
from networks import traced
from torch import nn

from vibfx.errors import PlanError
from vibfx.passes import SetMode
from vibfx.training.optimizers import Successor, normalized_weights, replace_parameters, take


def indices(*numbers):
    return torch.tensor(numbers)


def stepped(build, shape=(4, 3)):
    """An optimizer that has made two steps with a parameter, beside another one."""
    torch.manual_seed(0)
    parameter, other = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(2))
    optimizer = build([parameter, other])
    for _ in range(2):
        optimizer.zero_grad()
        (parameter.square().sum() + other.square().sum()).backward()
        optimizer.step()
    return optimizer, parameter, other


def test_indices_are_taken_along_several_dimensions():
    value = torch.arange(12).reshape(4, 3)
    cuts = [(0, indices(0, 3)), (1, indices(1, 2))]
    assert take(value, cuts).tolist() == [[1, 2], [10, 11]]
    assert take(value[:, :1], cuts).tolist() == [[0], [9]]


def test_a_successor_has_the_rest_of_values_and_gradient():
    old = nn.Parameter(torch.arange(6.0).reshape(3, 2), requires_grad=False)
    new = Successor(old, [(0, indices(0, 2))]).parameter
    assert (new.tolist(), new.requires_grad, new.grad) == ([[0, 1], [4, 5]], False, None)
    old.requires_grad_()
    old.square().sum().backward()
    new = Successor(old, [(1, indices(1))]).parameter
    assert (new.grad.tolist(), new.requires_grad) == ([[2], [6], [10]], True)


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True),
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.NAdam,
    ],
)
def test_the_state_of_what_is_left_is_carried_over(build):
    optimizer, old, other = stepped(build)
    before = {k: v.clone() for k, v in optimizer.state[old].items() if torch.is_tensor(v)}
    successor = Successor(old, [(0, indices(1, 2))])
    replace_parameters(optimizer, {old: successor})
    new = successor.parameter
    assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], [new, other], strict=True)]
    assert old not in optimizer.state
    after = optimizer.state[new]
    assert any(v.shape == (2, 3) for v in after.values() if torch.is_tensor(v))
    for key, value in before.items():
        expected = value[1:3] if value.shape == old.shape else value
        assert torch.equal(after[key], expected), key
    optimizer.zero_grad()
    new.square().sum().backward()
    optimizer.step()


def test_before_the_first_step_there_is_no_state():
    old = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([old])
    successor = Successor(old, [(0, indices(1))])
    replace_parameters(optimizer, {old: successor})
    assert optimizer.param_groups[0]["params"][0] is successor.parameter
    assert not optimizer.state


@pytest.mark.parametrize("shape", [(4,), (3, 4), (4, 3, 1)])
def test_state_of_another_shape_is_refused(shape):
    optimizer, old, _ = stepped(torch.optim.Adam)
    optimizer.state[old]["sketch"] = torch.zeros(shape)
    with pytest.raises(PlanError, match=r"keeps 'sketch' of shape .* of shape \(4, 3\)"):
        replace_parameters(optimizer, {old: Successor(old, [(0, indices(0))])})
    assert optimizer.param_groups[0]["params"][0] is old
    assert old in optimizer.state


class Norms(nn.Module):
    """Of the four layers the first two are read by batch norms alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.other, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.read_twice, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv(x)))
        x = torch.relu(self.bn2(self.other(x)))
        y = self.read_twice(x)
        return self.head((y + self.bn3(y)).mean((2, 3)))


def test_weights_whose_size_does_not_matter_are_those_in_front_of_a_batch_norm():
    module = traced(Norms(), (3, 6, 6))
    found = normalized_weights(module)
    assert [id(weight) for weight in found] == [
        id(module.get_parameter(name)) for name in ("conv.weight", "other.weight")
    ]
    SetMode(training=True)(module)
    x, before = torch.randn(8, 3, 6, 6), None
    for factor in (1.0, 3.0):
        with torch.no_grad():
            for weight in found:
                weight.mul_(factor)
            y = module(x)
        before = y if before is None else before
    assert torch.allclose(before, y, atol=1e-4)
