"""How good a graph is, over all examples of a loader."""

import pytest
import torch
from networks import traced
from torch import nn

from vibfx.training.evaluation import Score, evaluate
from vibfx.training.objectives import Supervised, relative_error

SCORES = torch.eye(4)
LABELLED = [(SCORES[[0, 1, 2]], torch.tensor([0, 1, 3])), (SCORES[[3]], torch.tensor([3]))]


def test_accuracy_counts_every_example_once():
    assert evaluate(nn.Identity(), LABELLED) == Score(accuracy=0.75)


def test_nothing_is_said_of_no_examples():
    assert evaluate(nn.Identity(), []) == Score()


def test_the_loss_that_is_asked_for():
    found = evaluate(nn.Identity(), [(SCORES, SCORES + 2.0)], loss=Supervised("mse"))
    assert found == Score(loss=4.0)


def test_beside_the_original():
    class Flip(nn.Module):
        def forward(self, x):
            return torch.where(x.sum(1, keepdim=True) > 1.5, x.flip(1), x)

    x = SCORES * torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]
    found = evaluate(Flip(), [x], original=nn.Identity())
    assert found.agreement == 0.75
    assert found.error == pytest.approx(float(relative_error([Flip()(x)], [x])))
    assert (found.accuracy, found.loss) == (None, None)
    assert evaluate(nn.Identity(), [x], original=nn.Identity()) == Score(agreement=1.0, error=0.0)


def test_outputs_that_are_no_scores_have_no_agreement():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x[:, :1]

    assert evaluate(Pair(), [SCORES], original=Pair()) == Score(error=0.0)


class Travelling(nn.Module):
    """Says that it is elsewhere, and notes where it is taken."""

    def __init__(self):
        super().__init__()
        self.register_buffer("held", torch.empty(1, device="meta"))
        self.places = []

    def to(self, place):
        self.places.append(torch.device(place).type)
        return self

    def forward(self, x):
        return x


def test_what_is_measured_comes_back_where_it_was():
    """Training goes on with what it distils from, on its own device."""
    module, original = Travelling(), Travelling()
    evaluate(module, [SCORES], torch.device("cpu"), original=original)
    assert module.places == original.places == ["cpu", "meta"]


def test_nothing_is_recorded():
    torch.manual_seed(0)
    graph = traced(nn.Linear(4, 4), (4,))
    found = evaluate(graph, LABELLED, loss=Supervised(), original=graph)
    assert found.agreement == 1.0
    assert all(p.grad is None and p.device.type == "cpu" for p in graph.parameters())


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Score(accuracy=0.9, loss=2.0), Score(accuracy=0.8, loss=1.0)),
        (Score(loss=1.0, error=0.5), Score(loss=2.0, error=0.1)),
        (Score(error=0.1), Score(error=0.2)),
    ],
)
def test_what_decides_between_two_graphs(better, worse):
    assert better.fault < worse.fault
