"""Means and sums: channels pass, what is reduced stays."""

import pytest
import torch
from couplings import (
    INPUT_CHANNELS,
    OUTPUT,
    Net,
    case,
    check_exact,
    check_gradients,
    frozen,
    rows,
    sites,
    units,
)
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


# --- across features ----------------------------------------------------------------------------

MAXIMUM = "a maximum or the like is taken across it"
RUNS = "a softmax or a running sum runs across it"
RANKED = "a ranking runs across it"

STAYS = {
    "amax": (lambda y: y.amax(-1, keepdim=True), MAXIMUM),
    "argmax": (lambda y: y.argmax(-1, keepdim=True) * y, MAXIMUM),
    "max": (lambda y: y.max(-1, keepdim=True)[0], MAXIMUM),
    "prod": (lambda y: y.prod(-1, keepdim=True), MAXIMUM),
    "logsumexp": (lambda y: y.logsumexp(-1, keepdim=True), MAXIMUM),
    "softmax": (lambda y: y.softmax(-1), RUNS),
    "log_softmax": (lambda y: y.log_softmax(-1), RUNS),
    "cumsum": (lambda y: y.cumsum(-1), RUNS),
    "topk": (lambda y: y.topk(2, -1)[0].sum(-1, keepdim=True), RANKED),
    "sort": (lambda y: y.sort(-1)[0], RANKED),
}


@pytest.mark.parametrize("name", STAYS)
def test_features_under_a_maximum_a_ranking_or_a_running_sum_stay(name):
    function, reason = STAYS[name]
    net = Net(
        lambda net, x: net.h((function(net.a(x)) + x.new_zeros(1)).expand(-1, -1, 6)),
        a=nn.Linear(3, 6),
        h=nn.Linear(6, 2),
    )
    given = case(net, 5, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {reason: 6}


@pytest.mark.parametrize("name", STAYS)
def test_they_pass_where_tokens_are_compared(name):
    function, _ = STAYS[name]
    net = Net(lambda net, x: net.h(function(net.a(x).mT).mT), a=nn.Linear(3, 6), h=nn.Linear(6, 2))
    given = case(net, 5, 3)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_a_norm_of_order_zero_counts_and_keeps_what_it_counts():
    net = Net(
        lambda net, x: x[:, :2] * torch.linalg.vector_norm(net.a(x), 0, dim=-1, keepdim=True),
        a=nn.Linear(3, 6),
    )
    given = case(net, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {REDUCED: 6}


def test_gradients_through_a_mean_with_its_original_denominator():
    net = Net(
        lambda net, x: net.b(torch.relu(net.a(x)).mean(1, keepdim=True)),
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(1, 3, 3),
    )
    check_gradients(case(net, 2, 6, 6))
