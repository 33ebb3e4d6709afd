"""The sentences; that they come where they are true is shown in test_surgery."""

import pytest
import torch
from applied_networks import plan_keeping
from torch import Tensor, nn

import vibfx
from vibfx.applying.agreement import Pair
from vibfx.applying.narrowing import Narrowing
from vibfx.applying.refusals import (
    check_class_can,
    of_difference,
    of_raised,
    of_training,
    unread_parts,
)
from vibfx.errors import PlanError
from vibfx.passes import PruneChannels
from vibfx.planning import PruningPlan


class Halved(nn.Module):
    """Divides by a number that stands in the code, and reads a part that nothing needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.spare = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.last(y + self.first.weight.shape[0])


def halved():
    torch.manual_seed(0)
    model = Halved()
    graph = vibfx.trace(model, torch.randn(2, 3))
    plan = plan_keeping(graph, first=[1, 2])
    return model, plan, graph, PruneChannels(plan)(graph).graph_module


def test_the_first_layer_that_differs_is_named():
    model, plan, graph, cut = halved()
    check_class_can(plan, model, graph, cut)
    Narrowing(plan, {}).apply(model)
    pair = Pair.of(model, cut, torch.float64)
    assert pair.error() > 1e-3
    error = of_difference(0.5, pair, graph)
    assert "relative error 5.00e-01" in error.what
    assert error.what.endswith("last is the first whose input differs")
    assert error.where == "last"


def test_an_error_is_told_by_the_innermost_line_of_the_users_code():
    model, _, graph, cut = halved()

    def broken(x):
        raise ValueError("no such size\nand more")

    model.last.forward = broken
    with pytest.raises(ValueError, match="no such size") as caught:
        model(torch.randn(2, 3))
    error = of_raised(caught.value, model, graph, cut)
    assert error.what == "the narrowed module does not run: no such size"
    assert error.where.startswith("test_refusals.py:")
    assert error.where.endswith('raise ValueError("no such size\\nand more")')
    training = of_training(caught.value, ["aux", "more"])
    assert "reads by aux, more what the plan cuts" in training.what


def test_parts_that_the_graph_does_not_read():
    model, _, graph, _ = halved()
    assert unread_parts(model, graph) == ["spare"]


def test_a_layer_of_which_nothing_is_left_is_refused_by_name():
    model, _, graph, cut = halved()
    with pytest.raises(PlanError, match="removes all channels") as caught:
        check_class_can(PruningPlan({"first.weight": {0: ()}}, {}, ()), model, graph, cut)
    assert caught.value.where == "first.weight"
    assert "PruneChannels(plan)" in caught.value.hint
