"""Batch norm behind, in front of and between layers."""

import pytest
import torch
from couplings import (
    INPUT_FEATURES,
    UNLABELLED,
    Net,
    case,
    channels,
    check_exact,
    frozen,
    rows,
    sites,
    sizes,
    unit,
    units,
)
from torch import nn

STATISTICS = ("running_mean", "running_var")


def norm_slots(*names, affine=True):
    parts = ("weight", "bias", *STATISTICS) if affine else STATISTICS
    return [f"{name}.{part}:0" for name in names for part in parts]


@pytest.mark.parametrize("affine", [True, False])
def test_behind_a_convolution(affine):
    net = Net(
        lambda net, x: net.b(torch.relu(net.n(net.a(x)))),
        a=nn.Conv2d(2, 4, 3),
        n=nn.BatchNorm2d(4, affine=affine),
        b=nn.Conv2d(4, 3, 3, padding=1),
    )
    given = case(net, 2, 6, 6)
    slots = ["a.weight:0", "a.bias:0", *norm_slots("n", affine=affine), "b.weight:1"]
    assert units(given.found) == channels(4, *slots)
    assert sites(given.found) == ["relu"]
    check_exact(given)


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 4, 4, 4)], ids=str)
def test_on_other_ranks(shape):
    layer, norm = {
        1: (nn.Linear, nn.BatchNorm1d),
        2: (lambda i, o: nn.Conv1d(i, o, 1), nn.BatchNorm1d),
        4: (lambda i, o: nn.Conv3d(i, o, 1), nn.BatchNorm3d),
    }[len(shape)]
    net = Net(
        lambda net, x: net.b(torch.tanh(net.n(net.a(x)))), a=layer(5, 4), n=norm(4), b=layer(4, 3)
    )
    given = case(net, *shape)
    slots = ["a.weight:0", "a.bias:0", *norm_slots("n"), "b.weight:1"]
    assert units(given.found) == channels(4, *slots)
    check_exact(given)


def test_a_gate_goes_behind_the_norm():
    """Not between layer and norm: the norm would turn the zeros into a constant."""
    net = Net(
        lambda net, x: net.b(net.n(net.a(x))),
        a=nn.Conv2d(2, 4, 3),
        n=nn.BatchNorm2d(4),
        b=nn.Conv2d(4, 3, 3, padding=1),
    )
    given = case(net, 2, 6, 6)
    assert sites(given.found) == ["batch_norm"]
    check_exact(given)


def test_on_the_input():
    net = Net(
        lambda net, x: net.b(torch.relu(net.a(net.n(x)))),
        n=nn.BatchNorm1d(3),
        a=nn.Linear(3, 5),
        b=nn.Linear(5, 2),
    )
    given = case(net, 3)
    assert units(given.found) == rows(5, "a", "> b")
    for slot in norm_slots("n"):
        assert frozen(given.found)[slot] == {UNLABELLED: 3}
    assert frozen(given.found)["a.weight:1"] != {INPUT_FEATURES: 3}
    check_exact(given)


def test_pre_activation_block():
    """One gate a group: at every norm of the stream, and between the block's layers."""

    def forward(net, x):
        x = net.stem(x)
        x = x + net.c2(torch.relu(net.n2(net.c1(torch.relu(net.n1(x))))))
        return net.h(torch.relu(net.n3(x)).mean((2, 3)))

    net = Net(
        forward,
        stem=nn.Conv2d(2, 4, 3),
        n1=nn.BatchNorm2d(4),
        c1=nn.Conv2d(4, 5, 3, padding=1),
        n2=nn.BatchNorm2d(5),
        c2=nn.Conv2d(5, 4, 3, padding=1),
        n3=nn.BatchNorm2d(4),
        h=nn.Linear(4, 3),
    )
    given = case(net, 2, 6, 6)
    makers = [f"{name}.{part}:0" for name in ("stem", "c2") for part in ("weight", "bias")]
    stream = channels(4, *makers, *norm_slots("n1", "n3"), "c1.weight:1", "h.weight:1")
    inner = channels(5, "c1.weight:0", "c1.bias:0", *norm_slots("n2"), "c2.weight:1")
    assert units(given.found) == stream | inner
    assert sizes(given.found) == {"stem": 4, "c1": 5}
    assert sites(given.found) == ["relu", "relu_1", "relu_2"]
    check_exact(given)


def test_behind_a_cat():
    net = Net(
        lambda net, x: net.h(torch.relu(net.n(torch.cat([net.a(x), net.b(x)], 1)))),
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(2, 3, 3),
        n=nn.BatchNorm2d(7),
        h=nn.Conv2d(7, 2, 1),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == {
        unit(
            f"{name}.weight:0[{i}]",
            f"{name}.bias:0[{i}]",
            *(f"{slot}[{start + i}]" for slot in [*norm_slots("n"), "h.weight:1"]),
        )
        for name, start, width in (("a", 0, 4), ("b", 4, 3))
        for i in range(width)
    }
    assert sites(given.found) == ["relu"]  # one site for both groups
    check_exact(given)
