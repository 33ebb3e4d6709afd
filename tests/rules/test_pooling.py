"""Pooling of every kind."""

import pytest
from couplings import INPUT_CHANNELS, OUTPUT, Net, case, check_exact, frozen, rows, sites, units
from torch import nn
from torch.nn import functional as F

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

POOLS = {
    "max1d": (1, nn.MaxPool1d(2)),
    "max2d": (2, nn.MaxPool2d(2)),
    "max3d": (3, nn.MaxPool3d(2)),
    "max2d padded": (2, nn.MaxPool2d(3, 1, 1)),
    "max2d dilated": (2, nn.MaxPool2d(2, dilation=2, ceil_mode=True)),
    "avg1d": (1, nn.AvgPool1d(2)),
    "avg2d": (2, nn.AvgPool2d(2)),
    "avg3d": (3, nn.AvgPool3d(2)),
    "avg2d padded": (2, nn.AvgPool2d(3, 1, 1)),
    "adaptive avg1d": (1, nn.AdaptiveAvgPool1d(2)),
    "adaptive avg2d": (2, nn.AdaptiveAvgPool2d(2)),
    "adaptive avg3d": (3, nn.AdaptiveAvgPool3d((2, 1, 2))),
}


@pytest.mark.parametrize("name", POOLS)
def test_channels_pass(name):
    dims, pool = POOLS[name]
    conv = CONV[dims - 1]
    net = Net(lambda net, x: net.b(net.pool(net.a(x))), a=conv(2, 4, 3), pool=pool, b=conv(4, 3, 1))
    given = case(net, 2, *[6] * dims)
    assert units(given.found) == rows(4, "a", "> b")
    assert sites(given.found) == [f"conv{dims}d"]  # in front: pooling keeps zeros
    assert frozen(given.found) == {
        "a.weight:1": {INPUT_CHANNELS: 2},
        "b.weight:0": {OUTPUT: 3},
        "b.bias:0": {OUTPUT: 3},
    }
    check_exact(given)


def test_labels_under_the_window_stay():
    net = Net(lambda net, x: net.b(F.max_pool1d(net.a(x), 2)), a=nn.Linear(4, 6), b=nn.Linear(3, 2))
    given = case(net, 3, 4)
    assert units(given.found) == set()
    reason = "a window slides over it"
    assert frozen(given.found)["a.weight:0"] == {reason: 6}
    assert frozen(given.found)["a.bias:0"] == {reason: 6}


def test_pooled_then_flattened():
    net = Net(
        lambda net, x: net.h(net.pool(net.a(x)).flatten(1)),
        a=nn.Conv2d(2, 4, 3),
        pool=nn.MaxPool2d(2),
        h=nn.Linear(16, 3),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == {
        frozenset(
            [f"a.weight:0[{c}]", f"a.bias:0[{c}]", *(f"h.weight:1[{4 * c + k}]" for k in range(4))]
        )
        for c in range(4)
    }
    check_exact(given)
