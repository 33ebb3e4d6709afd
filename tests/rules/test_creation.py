"""Tensors filled with one number follow what they meet."""

import pytest
import torch
from couplings import UNLABELLED, Net, case, check_exact, frozen, rows, unit, units
from torch import nn

from vibfx.passes import PruneChannels

MET = {
    "plus zeros": lambda y: y + torch.zeros(y.shape[0], 5, 6),
    "times ones": lambda y: y * torch.ones(y.shape[0], 1, 6),
    "times a number": lambda y: y * y.new_full((6,), 0.5),
    "at most ones": lambda y: torch.minimum(y, y.new_ones(y.shape[0], 5, 6)),
    "where": lambda y: torch.where(y > 0, y, y.new_zeros(6)),
}


@pytest.mark.parametrize("name", MET)
def test_a_filled_tensor_gets_narrower_with_what_it_meets(name):
    net = Net(lambda net, x: net.h(MET[name](net.a(x))), a=nn.Linear(3, 6), h=nn.Linear(6, 2))
    given = case(net, 5, 3)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_literal_sizes_follow():
    net = Net(
        lambda net, x: net.h(net.a(x) + x.new_ones(x.shape[0], 6)),
        a=nn.Linear(3, 6),
        h=nn.Linear(6, 2),
    )
    given = case(net, 3)
    plan = check_exact(given)
    small = PruneChannels(plan)(given.graph).graph_module
    (ones,) = (node for node in small.graph.nodes if "new_ones" in node.name)
    assert ones.args[1][1] == len(plan.groups[0].kept)


def test_columns_that_read_zeros_may_go_too():

    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.h(torch.cat([y.new_zeros(y.shape[0], 2), y], 1))

    given = case(Net(forward, a=nn.Linear(3, 6), h=nn.Linear(8, 2)), 3)
    made = {unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"h.weight:1[{i + 2}]") for i in range(6)}
    assert units(given.found) == made | {unit(f"h.weight:1[{i}]") for i in range(2)}
    check_exact(given, control=False)


def test_zeros_joined_along_tokens():
    def forward(net, x):
        y = net.a(x)
        return net.h(torch.relu(net.b(torch.cat([y.new_zeros(y.shape[0], 2, 6), y], 1))))

    layers = {"a": nn.Linear(3, 6), "b": nn.Linear(6, 4), "h": nn.Linear(4, 2)}
    given = case(Net(forward, **layers), 5, 3)
    assert units(given.found) == rows(6, "a", "> b") | rows(4, "b", "> h")
    check_exact(given)


def test_two_filled_tensors_that_meet_channels_of_a_sum():
    """An LSTM written out, with states of zeros."""

    def forward(net, x):
        h = c = x.new_zeros(x.shape[0], 4)
        for step in range(3):
            i, f, g, o = net.c(torch.cat([x[:, step], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return net.h(h)

    given = case(Net(forward, c=nn.Linear(7, 16), h=nn.Linear(4, 2)), 3, 3)
    assert units(given.found) == {
        unit(
            *(f"c.{p}:0[{j},{4 + j},{8 + j},{12 + j}]" for p in ("weight", "bias")),
            f"c.weight:1[{3 + j}]",
            f"h.weight:1[{j}]",
        )
        for j in range(4)
    }
    check_exact(given)


def test_whole_numbers_are_positions():
    forward = lambda net, x: net.h(net.a(x) * torch.ones(6, dtype=torch.int64) * x.sum())  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6), h=nn.Linear(6, 2)), 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {UNLABELLED: 6}
