"""Means and sums: channels pass, what is reduced stays."""

import pytest
import torch
from couplings import INPUT_CHANNELS, OUTPUT, Net, case, check_exact, frozen, rows, sites, units
from torch import nn

import vibfx

REDUCED = "a statistic is taken across it"

OVER_SPACE = {
    "mean": lambda y: y.mean((2, 3)),
    "mean, from the end": lambda y: y.mean((-1, -2)),
    "mean, kept": lambda y: y.mean((2, 3), keepdim=True).flatten(1),
    "mean, twice": lambda y: y.mean(3).mean(2),
    "sum": lambda y: y.sum((2, 3)),
    "sum, kept": lambda y: y.sum(-1, keepdim=True).sum(2).flatten(1),
}


@pytest.mark.parametrize("name", OVER_SPACE)
def test_over_space(name):
    net = Net(
        lambda net, x: net.h(OVER_SPACE[name](torch.relu(net.a(x)))),
        a=nn.Conv2d(2, 4, 3),
        h=nn.Linear(4, 2),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> h")
    assert sites(given.found) == ["relu"]
    check_exact(given)


OVER_CHANNELS = {
    "mean": lambda y: y.mean(1, keepdim=True),
    "sum": lambda y: y.sum(1, keepdim=True),
    "mean of all but the batch": lambda y: y.mean((1, 2, 3), keepdim=True).expand(-1, -1, 4, 4),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_over_channels(name):
    net = Net(
        lambda net, x: net.b(OVER_CHANNELS[name](torch.relu(net.a(x)))),
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(1, 3, 3),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == rows(4, "a")
    assert frozen(given.found) == {
        "a.weight:1": {INPUT_CHANNELS: 2},
        "b.weight:0": {OUTPUT: 3},
        "b.bias:0": {OUTPUT: 3},
    }
    assert sites(given.found) == ["relu"]
    check_exact(given)
    kept = vibfx.analyze(given.graph, norms="freeze")
    assert units(kept) == set()
    assert frozen(kept)["a.weight:0"] == {REDUCED: 4}


def test_over_tokens():
    net = Net(
        lambda net, x: net.h(torch.relu(net.a(x)).mean(1)), a=nn.Linear(3, 5), h=nn.Linear(5, 2)
    )
    given = case(net, 4, 3)
    assert units(given.found) == rows(5, "a", "> h")
    check_exact(given)


def test_over_the_batch():
    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.h(y - y.mean(0, keepdim=True))

    given = case(Net(forward, a=nn.Linear(3, 5), h=nn.Linear(5, 2)), 3)
    assert units(given.found) == rows(5, "a", "> h")
    check_exact(given)
