"""Ops that move data: whatever the arrangement, the right elements go."""

import pytest
import torch
from couplings import (
    INPUT_CHANNELS,
    OUTPUT,
    TIED_TO_FIXED,
    UNLABELLED,
    Net,
    Value,
    case,
    check_exact,
    frozen,
    rows,
    sites,
    sizes,
    unit,
    units,
)
from torch import nn
from torch.nn import functional as F

from vibfx.passes import PruneChannels


def spread(name, index, *columns):
    """The unit of one channel of ``name`` and these columns of the layer ``h``."""
    listed = ",".join(map(str, columns))
    return unit(f"{name}.weight:0[{index}]", f"{name}.bias:0[{index}]", f"h.weight:1[{listed}]")


# --- reshape and its kin ------------------------------------------------------------------------


def head(move, features):
    """A convolution of 3 channels by 2 x 2 positions, a rearrangement, and a linear layer."""
    net = Net(
        lambda net, x: net.h(move(torch.relu(net.a(x)), x)),
        a=nn.Conv2d(2, 3, 3),
        h=nn.Linear(features, 2),
    )
    return case(net, 2, 4, 4)


CHANNELS_FIRST = {
    "flatten": lambda y, x: y.flatten(1),
    "view": lambda y, x: y.view(-1, 12),
    "view of the batch": lambda y, x: y.view(x.shape[0], 12),
    "reshape": lambda y, x: y.reshape(x.shape[0], -1),
    "reshape twice": lambda y, x: y.reshape(-1, 3, 4).reshape(-1, 6, 2).reshape(-1, 12),
    "permuted there and back": lambda y, x: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2).flatten(1),
    "unflatten": lambda y, x: y.flatten(1).unflatten(1, (3, 4)).flatten(1),
    "unsqueezed": lambda y, x: y.unsqueeze(1).squeeze(1).unsqueeze(-1).flatten(1),
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_each_channel_takes_its_run_of_features(name):
    given = head(CHANNELS_FIRST[name], 12)
    assert units(given.found) == {spread("a", c, *range(4 * c, 4 * c + 4)) for c in range(3)}
    assert sites(given.found) == ["relu"]
    check_exact(given)


CHANNELS_LAST = {
    "permute": lambda y, x: y.permute(0, 2, 3, 1).flatten(1),
    "transpose": lambda y, x: y.flatten(2).transpose(1, 2).reshape(-1, 12),
    "view with constants": lambda y, x: y.permute(0, 2, 3, 1).reshape(x.shape[0], 2, 6).flatten(1),
}


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_each_channel_takes_every_third_feature(name):
    given = head(CHANNELS_LAST[name], 12)
    assert units(given.found) == {spread("a", c, c, c + 3, c + 6, c + 9) for c in range(3)}
    check_exact(given)


def test_rows_of_a_view_with_constants():
    given = head(lambda y, x: y.reshape(x.shape[0], 3, 2, 2).transpose(1, 3).reshape(-1, 2, 6), 6)
    assert units(given.found) == {spread("a", c, c, c + 3) for c in range(3)}
    check_exact(given)


def test_channels_as_the_last_dimension():
    given = head(lambda y, x: y.view(x.shape[0], 3, 4).permute(0, 2, 1), 3)
    assert units(given.found) == rows(3, "a", "> h")
    check_exact(given)


def test_channels_in_front_of_the_batch():
    given = head(lambda y, x: y.permute(1, 0, 2, 3).transpose(0, 1).flatten(1), 12)
    assert units(given.found) == {spread("a", c, *range(4 * c, 4 * c + 4)) for c in range(3)}
    check_exact(given)


MERGED = {
    "counted": lambda y, x: y.view(x.shape[0] * 3, 1, 2, 2).mean((2, 3)).view(x.shape[0], 3),
    "inferred": lambda y, x: y.view(-1, 1, 2, 2).mean((2, 3)).view(-1, 3),
    "flattened": lambda y, x: y.flatten(0, 1).mean(1).unflatten(0, (-1, 3)).mean(2),
}


@pytest.mark.parametrize("name", MERGED)
def test_channels_merged_into_the_batch(name):
    given = head(MERGED[name], 3)
    assert units(given.found) == rows(3, "a", "> h")
    check_exact(given)


@pytest.mark.parametrize("literal", [-1, 4])
def test_expand(literal):
    def forward(net, x):
        y = torch.relu(net.a(x)).mean((2, 3), keepdim=True)
        return net.h(y.expand(-1, literal, 3, 3))

    given = case(Net(forward, a=nn.Conv2d(2, 4, 3), h=nn.Conv2d(4, 2, 2)), 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> h")
    check_exact(given)


def test_squeeze():
    def forward(net, x):
        return net.h(F.adaptive_avg_pool2d(torch.relu(net.a(x)), 1).squeeze(-1).squeeze(-1))

    given = case(Net(forward, a=nn.Conv2d(2, 4, 3), h=nn.Linear(4, 2)), 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> h")
    check_exact(given)


def test_transposed_parameter():
    given = case(
        Net(lambda net, x: torch.relu(net.a(x)) @ net.w.p.t(), a=nn.Linear(3, 5), w=Value(2, 5)), 3
    )
    assert units(given.found) == {
        unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"w.p:1[{i}]") for i in range(5)
    }
    check_exact(given)


def test_sequence_before_batch():
    def forward(net, x):
        return net.h(torch.relu(net.a(x.transpose(0, 1)))).transpose(0, 1)

    given = case(Net(forward, a=nn.Linear(3, 6), h=nn.Linear(6, 2)), 4, 3)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_literal_sizes_follow():
    given = head(lambda y, x: y.view(-1, 3, 4).unsqueeze(3).reshape(-1, 12), 12)
    plan = check_exact(given)
    small = PruneChannels(plan)(given.graph).graph_module
    (kept,) = (len(group.kept) for group in plan.groups)
    literals = [
        node.args[1]
        for node in small.graph.nodes
        if "view" in str(node.target) or "reshape" in str(node.target)
    ]
    assert literals == [[-1, kept, 4], [-1, 4 * kept]]


# --- cat ----------------------------------------------------------------------------------------


def branches(*widths):
    """Branches of these widths side by side, and a convolution that reads them."""
    names = [f"b{number}" for number in range(len(widths))]
    layers = {name: nn.Conv2d(2, width, 1) for name, width in zip(names, widths, strict=True)}
    net = Net(
        lambda net, x: net.h(torch.cat([torch.relu(getattr(net, n)(x)) for n in names], 1)),
        **layers,
        h=nn.Conv2d(sum(widths), 2, 1),
    )
    return case(net, 2, 6, 6)


@pytest.mark.parametrize("widths", [(3, 3), (3, 5), (4, 2, 3)], ids=str)
def test_cat_of_branches(widths):
    given = branches(*widths)
    starts = [sum(widths[:number]) for number in range(len(widths))]
    assert units(given.found) == {
        spread(f"b{number}", i, starts[number] + i)
        for number, width in enumerate(widths)
        for i in range(width)
    }
    assert sizes(given.found) == {f"b{number}": width for number, width in enumerate(widths)}
    check_exact(given)


def test_cat_of_a_tensor_with_itself():
    def forward(net, x):
        x = torch.relu(net.a(x))
        return net.h(torch.cat([x, x], 1))

    given = case(Net(forward, a=nn.Conv2d(2, 3, 1), h=nn.Conv2d(6, 2, 1)), 2, 6, 6)
    assert units(given.found) == {spread("a", i, i, i + 3) for i in range(3)}
    check_exact(given)


@pytest.mark.parametrize("first", [True, False])
def test_cat_with_the_input(first):
    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.h(torch.cat([x, y] if first else [y, x], 1))

    given = case(Net(forward, a=nn.Conv2d(2, 3, 1), h=nn.Conv2d(5, 2, 1)), 2, 6, 6)
    assert units(given.found) == {spread("a", i, i + 2 if first else i) for i in range(3)}
    assert frozen(given.found) == {
        "a.weight:1": {INPUT_CHANNELS: 2},
        "h.weight:0": {OUTPUT: 2},
        "h.weight:1": {TIED_TO_FIXED: 2},
        "h.bias:0": {OUTPUT: 2},
    }
    check_exact(given)


def test_cat_then_residual_sum():
    def forward(net, x):
        return net.h(torch.relu(torch.cat([net.a(x), net.b(x)], 1) + net.d(x)))

    given = case(
        Net(
            forward,
            a=nn.Conv2d(2, 3, 1),
            b=nn.Conv2d(2, 5, 1),
            d=nn.Conv2d(2, 8, 1),
            h=nn.Conv2d(8, 2, 1),
        ),
        2,
        6,
        6,
    )
    assert units(given.found) == {
        spread(name, i, start + i) | unit(f"d.weight:0[{start + i}]", f"d.bias:0[{start + i}]")
        for name, start, width in (("a", 0, 3), ("b", 3, 5))
        for i in range(width)
    }
    assert sites(given.found) == ["conv2d", "conv2d_1", "conv2d_2"]
    check_exact(given)


def test_cat_along_another_dimension_ties_the_channels():
    given = case(
        Net(
            lambda net, x: net.h(torch.cat([net.a(x), net.b(x)], 1)),
            a=nn.Linear(3, 6),
            b=nn.Linear(3, 6),
            h=nn.Linear(6, 2),
        ),
        5,
        3,
    )
    assert units(given.found) == rows(6, "a", "b", "> h")
    check_exact(given)


def test_cat_with_the_input_along_another_dimension_stays():
    given = case(
        Net(
            lambda net, x: net.h(torch.cat([net.a(x), x], 1)), a=nn.Linear(6, 6), h=nn.Linear(6, 2)
        ),
        5,
        6,
    )
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {UNLABELLED: 6}


def test_a_class_token():
    def forward(net, x):
        y = net.emb(x)
        y = torch.cat([net.token.p.expand(y.shape[0], -1, -1), y], 1)
        return net.h(torch.relu(net.c(y)).mean(1))

    net = Net(
        forward, emb=nn.Linear(3, 6), token=Value(1, 1, 6), c=nn.Linear(6, 5), h=nn.Linear(5, 2)
    )
    given = case(net, 5, 3)
    stream = {
        one | {f"token.p:2[{i}]"}
        for i in range(6)
        for one in rows(6, "emb", "> c")
        if f"c.weight:1[{i}]" in one
    }
    assert units(given.found) == stream | rows(5, "c", "> h")
    check_exact(given)


def test_channel_shuffle():
    """A grouped convolution behind a shuffle of 8 channels.

    The shuffle puts channels 0 4 1 5 2 6 3 7 in this order, so that the columns of the groups read
    {0, 2}, {4, 6}, {1, 3} and {5, 7}. Tracing makes one table of it, which can be cut anywhere.
    """

    def forward(net, x):
        x = net.a(x).view(-1, 2, 4, 4, 4).transpose(1, 2).reshape(-1, 8, 4, 4)
        return net.c(torch.relu(net.b(x)))

    layers = {
        "a": nn.Conv2d(2, 8, 3),
        "b": nn.Conv2d(8, 8, 3, groups=2),
        "c": nn.Conv2d(8, 3, 1),
    }
    given = case(Net(forward, **layers), 2, 6, 6)
    makers = {
        unit(f"a.weight:0[{i},{i + 2}]", f"a.bias:0[{i},{i + 2}]", f"b.weight:1[{column}]")
        for column, i in enumerate((0, 4, 1, 5))
    }
    readers = {
        unit(*(f"{slot}[{k},{k + 4}]" for slot in ("b.weight:0", "b.bias:0", "c.weight:1")))
        for k in range(4)
    }
    assert units(given.found) == makers | readers
    assert sizes(given.found) == {"a": 4, "b": 4}
    check_exact(given)


def test_the_channels_that_make_a_pixel_go_together():
    """1 pixel shuffle by 2: the channels 0 to 3 are the pixels of the channel 0 behind it."""
    net = Net(
        lambda net, x: net.h(F.pixel_shuffle(torch.relu(net.a(x)), 2)),
        a=nn.Conv2d(2, 12, 3),
        h=nn.Conv2d(3, 2, 1),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == {
        unit(
            f"a.weight:0[{','.join(map(str, range(4 * i, 4 * i + 4)))}]",
            f"a.bias:0[{','.join(map(str, range(4 * i, 4 * i + 4)))}]",
            f"h.weight:1[{i}]",
        )
        for i in range(3)
    }
    check_exact(given)


def test_rows_of_pixels_stay():
    """One channel is left behind the shuffle, and a mean would not mind if half its rows went."""
    net = Net(
        lambda net, x: net.h(torch.relu(F.pixel_shuffle(net.a(x), 2)).mean((2, 3))),
        a=nn.Conv2d(2, 4, 3),
        h=nn.Linear(1, 2),
    )
    found = case(net, 2, 6, 6).found
    assert not found.units
    reasons = {f.reason for f in found.frozen if f.parameter == "a.weight" and f.dim == 0}
    assert reasons == {"pixels are moved between the channels and the image"}
