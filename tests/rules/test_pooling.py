"""Pooling of every kind."""

import pytest
import torch
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


def both(net, y):
    """Values and positions of the maxima."""
    values, positions = F.adaptive_max_pool2d(y, 2, return_indices=True)
    return values + positions


RESAMPLED = {
    "adaptive max2d": lambda net, y: F.adaptive_max_pool2d(y, 2),
    "adaptive max2d with positions": both,
    "max2d with positions": lambda net, y: F.max_pool2d(y, 2, return_indices=True)[0],
    "lp": lambda net, y: F.lp_pool2d(y.abs(), 2, 2),
    "nearest": lambda net, y: F.interpolate(y, scale_factor=2),
    "nearest to a size": lambda net, y: F.interpolate(y, size=(7, 5)),
    "bilinear": lambda net, y: F.interpolate(y, scale_factor=1.5, mode="bilinear"),
    "bilinear, aligned": lambda net, y: F.interpolate(
        y, size=9, mode="bilinear", align_corners=True
    ),
    "bicubic": lambda net, y: F.interpolate(y, scale_factor=2, mode="bicubic"),
    "area": lambda net, y: F.interpolate(y, size=2, mode="area"),
    "antialiased": lambda net, y: F.interpolate(y, size=2, mode="bilinear", antialias=True),
    "like another": lambda net, y: F.interpolate(F.max_pool2d(y, 2), y.shape[2:]) + y,
    "grid": lambda net, y: F.grid_sample(
        y,
        F.affine_grid(torch.eye(2, 3).expand(y.shape[0], 2, 3), (y.shape[0], 4, 3, 3)),
        align_corners=False,
    ),
    "pixel shuffle": lambda net, y: F.pixel_shuffle(F.pixel_unshuffle(y, 2), 2),
    "windows": lambda net, y: y.unfold(2, 2, 1).unfold(3, 2, 2).mean((-1, -2)),
    "columns and back": lambda net, y: F.fold(F.unfold(y, 2, padding=1), (6, 6), 2, padding=1),
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_channels_pass_what_resamples_space(name):
    net = Net(
        lambda net, x: net.b(RESAMPLED[name](net, net.a(x))),
        a=nn.Conv2d(2, 4, 1),
        b=nn.Conv2d(4, 3, 1),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> b")
    check_exact(given)


def test_patches_as_columns():
    """The columns of one channel go together."""
    net = Net(
        lambda net, x: net.h(F.unfold(net.a(x), 2, stride=2).transpose(1, 2)),
        a=nn.Conv2d(2, 3, 1),
        h=nn.Linear(12, 2),
    )
    given = case(net, 2, 4, 4)
    assert units(given.found) == {
        frozenset(
            [f"a.weight:0[{c}]", f"a.bias:0[{c}]", *(f"h.weight:1[{4 * c + k}]" for k in range(4))]
        )
        for c in range(3)
    }
    check_exact(given)


def test_positions_to_sample_at_stay():
    net = Net(
        lambda net, x: net.h(F.grid_sample(x, net.g(x).permute(0, 2, 3, 1), align_corners=False)),
        g=nn.Conv2d(2, 2, 1),
        h=nn.Conv2d(2, 3, 1),
    )
    found = frozen(case(net, 2, 4, 4).found)
    assert found["g.weight:0"] == {"positions to sample at": 2}


UNKNOWN = {
    "fft": lambda y: torch.fft.rfft2(y).abs(),
    "cdist": lambda y: torch.cdist(y, y),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_goes_into_an_op_without_a_rule_stays(name):
    net = Net(
        lambda net, x: net.b(UNKNOWN[name](net.a(x))), a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(4, 3, 1)
    )
    given = case(net, 2, 4, 4)
    assert units(given.found) == set()
    ((reason, count),) = frozen(given.found)["a.weight:0"].items()
    assert reason.endswith("an op without a rule")
    assert count == 4
