"""Networks of which the tests of inspections know every number."""

import functools

import torch
from couplings import Net
from networks import lenet, traced
from torch import nn

import vibfx
from vibfx.inspection import Inspection


def inspected(model: nn.Module, *shape: int) -> Inspection:
    """The inspection of a model, given the shape of one example."""
    torch.manual_seed(0)
    graph = traced(model.eval(), shape)
    return vibfx.inspect(graph, vibfx.analyze(graph))


@functools.cache
def lenet_inspection() -> Inspection:
    """Three groups in a chain: 0 to 2, 2 to 5, 5 to 7."""
    return inspected(lenet(), 1, 28, 28)


def residual(*, both: bool = False) -> nn.Module:
    """A sum of ``stem`` and ``last``, with ``wide`` in between; the sum may be an output too."""

    def forward(net, x):
        y = torch.relu(net.norm(net.stem(x)))
        y = y + net.last(torch.relu(net.wide(y)))
        scores = net.head(y.mean((2, 3)))
        return (scores, y) if both else scores

    return Net(
        forward,
        stem=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        wide=nn.Conv2d(4, 6, 1),
        last=nn.Conv2d(6, 4, 1),
        head=nn.Linear(4, 2),
    )


@functools.cache
def residual_inspection(*, both: bool = False) -> Inspection:
    """The network above on 5x5 images."""
    return inspected(residual(both=both), 3, 5, 5)


def alone() -> nn.Module:
    """A single layer, of which nothing can be removed."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
