"""Embedding tables: rows stay, features pass."""

import pytest
import torch
from couplings import Net, Value, case, channels, check_exact, frozen, rows, sites, units
from torch import nn
from torch.nn import functional as F

ROWS = "rows of a table that the input picks from"


def looked_up(net, x):
    """Five tokens, each one of two by the sign of its feature."""
    return F.embedding((x[..., 0] > 0).long(), net.w.p)


def test_features_go_and_rows_stay():
    net = Net(lambda net, x: net.h(torch.relu(looked_up(net, x))), w=Value(2, 6), h=nn.Linear(6, 2))
    given = case(net, 5, 3)
    assert units(given.found) == channels(6, "w.p:1", "h.weight:1")
    assert frozen(given.found)["w.p:0"] == {ROWS: 2}
    assert sites(given.found) == ["relu"]
    check_exact(given)


def test_tokens_plus_positions():
    def forward(net, x):
        y = looked_up(net, x) + net.e(torch.arange(5))
        return net.h(torch.relu(net.a(y)))

    layers = {"w": Value(2, 6), "e": nn.Embedding(5, 6), "a": nn.Linear(6, 4), "h": nn.Linear(4, 2)}
    given = case(Net(forward, **layers), 5, 3)
    stream = channels(6, "w.p:1", "e.weight:1", "a.weight:1")
    if not stream <= units(given.found):  # the constant lookup is folded into a table of its own
        stream = channels(6, "w.p:1", "folded_embedding_1_0:1", "a.weight:1")
    assert units(given.found) == stream | rows(4, "a", "> h")
    check_exact(given)


@pytest.mark.parametrize("transposed", [False, True])
def test_tied_to_the_output(transposed):
    """The table is the last layer too: its rows are tokens there, and the model's output."""

    def forward(net, x):
        y = looked_up(net, x)
        y = y + net.b(torch.relu(net.a(y)))
        return y @ net.w.p.t() if transposed else F.linear(y, net.w.p)

    given = case(Net(forward, w=Value(2, 6), a=nn.Linear(6, 4), b=nn.Linear(4, 6)), 5, 3)
    stream = channels(6, "w.p:1", "a.weight:1", "b.weight:0", "b.bias:0")
    assert units(given.found) == stream | rows(4, "a", "> b")
    assert list(frozen(given.found)["w.p:0"]) == [ROWS]
    check_exact(given)
