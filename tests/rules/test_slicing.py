"""Parts taken out of a tensor by constant positions, and parts put together."""

import pytest
import torch
from couplings import (
    Net,
    Value,
    case,
    check_exact,
    check_gradients,
    frozen,
    rows,
    unit,
    units,
)
from torch import nn
from torch.nn import functional as F

from vibfx.propagation import SELECTIONS

aten = torch.ops.aten


def between(function, out, **layers):
    """Six channels, a function, and a layer that reads ``out`` channels."""
    net = Net(
        lambda net, x: net.h(function(torch.relu(net.a(x)))),
        a=nn.Conv2d(2, 6, 1),
        h=nn.Conv2d(out, 2, 1),
        **layers,
    )
    return case(net, 2, 4, 4)


def read_at(positions):
    """The unit of every channel, with the columns that read it, if any."""
    return {
        unit(
            f"a.weight:0[{c}]",
            f"a.bias:0[{c}]",
            *(f"h.weight:1[{column}]" for column, source in enumerate(positions) if source == c),
        )
        for c in range(6)
    }


TAKEN = {
    "slice": (lambda y: y[:, 1:5], [1, 2, 3, 4]),
    "slice from the end": (lambda y: y[:, -3:], [3, 4, 5]),
    "slice to the end": (lambda y: y[:, :-2], [0, 1, 2, 3]),
    "strided": (lambda y: y[:, ::2], [0, 2, 4]),
    "strided with offset": (lambda y: y[:, 1::3], [1, 4]),
    "narrow": (lambda y: y.narrow(1, 2, 3), [2, 3, 4]),
    "list": (lambda y: y[:, [5, 0, 3]], [5, 0, 3]),
    "list with a repeat": (lambda y: y[:, [1, 1, 4, 0]], [1, 1, 4, 0]),
    "index_select": (lambda y: y.index_select(1, torch.tensor([4, 2])), [4, 2]),
    "flipped": (lambda y: y.flip(1), [5, 4, 3, 2, 1, 0]),
    "rolled": (lambda y: y.roll(2, 1), [4, 5, 0, 1, 2, 3]),
    "rolled back": (lambda y: y.roll(-1, 1), [1, 2, 3, 4, 5, 0]),
    "repeat": (lambda y: y.repeat(1, 2, 1, 1), [0, 1, 2, 3, 4, 5] * 2),
    "tile": (lambda y: y.tile(1, 2, 1, 1), [0, 1, 2, 3, 4, 5] * 2),
    "repeat_interleave": (
        lambda y: y.repeat_interleave(2, 1),
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    ),
    "cat with an empty slice": (
        lambda y: torch.cat([y[:, :0], y, y[:, 6:]], 1),
        [0, 1, 2, 3, 4, 5],
    ),
    "cat with itself": (lambda y: torch.cat([y, y], 1), [0, 1, 2, 3, 4, 5] * 2),
    "halves swapped": (lambda y: torch.cat(y.chunk(2, 1)[::-1], 1), [3, 4, 5, 0, 1, 2]),
    "uneven chunks": (lambda y: torch.cat(y.chunk(4, 1)[1:], 1), [2, 3, 4, 5]),
    "split sizes": (lambda y: torch.cat(y.split([2, 2, 2], 1)[::2], 1), [0, 1, 4, 5]),
    "split on the last dimension": (
        lambda y: y.permute(0, 2, 3, 1).split([2, 4], -1)[1].permute(0, 3, 1, 2),
        [2, 3, 4, 5],
    ),
    "shuffled": (
        lambda y: y.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2),
        [0, 3, 1, 4, 2, 5],
    ),
    "channel_shuffle": (lambda y: F.channel_shuffle(y, 3), [0, 2, 4, 1, 3, 5]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_channels_are_followed_to_the_columns_that_read_them(name):
    function, positions = TAKEN[name]
    given = between(function, len(positions))
    assert units(given.found) == read_at(positions)
    check_exact(given, control=set(positions) == set(range(6)))


PAIRED = {
    "chunk": lambda y: torch.mul(*y.chunk(2, 1)),
    "split": lambda y: torch.mul(*y.split(3, 1)),
    "unbind": lambda y: torch.mul(*y.unflatten(1, (2, 3)).unbind(1)),
    "select": lambda y: y.unflatten(1, (2, 3))[:, 0] - y.unflatten(1, (2, 3))[:, -1],
    "chunk on the last dimension": lambda y: torch.mul(*y.permute(0, 2, 3, 1).chunk(2, -1)).permute(
        0, 3, 1, 2
    ),
    "glu": lambda y: F.glu(y, 1),
    "stack": lambda y: torch.stack(y.chunk(2, 1)).prod(0),
    "stack behind": lambda y: torch.stack(y.chunk(2, 1), -1).sum(-1),
}


@pytest.mark.parametrize("name", PAIRED)
def test_halves_that_meet_go_together(name):
    given = between(PAIRED[name], 3)
    assert units(given.found) == {
        unit(f"a.weight:0[{i},{i + 3}]", f"a.bias:0[{i},{i + 3}]", f"h.weight:1[{i}]")
        for i in range(3)
    }
    check_exact(given)


def test_a_channel_picked_by_its_number_stays():
    given = between(lambda y: y[:, 2:3] * y, 6)
    assert frozen(given.found)["a.weight:0"] == {"a single channel is picked by its number": 1}
    assert units(given.found) == {one for one in read_at(range(6)) if "h.weight:1[2]" not in one}
    check_exact(given)


def test_positions_that_depend_on_the_input_keep_every_channel():
    net = Net(
        lambda net, x: net.h(net.a(x)[:, (x[0, :2] > 0).long()]),
        a=nn.Linear(3, 6),
        h=nn.Linear(2, 2),
    )
    given = case(net, 3)
    assert units(given.found) == set()
    reason = "picked by positions that depend on the input"
    assert frozen(given.found)["a.weight:0"] == {reason: 6}


def test_positions_go_from_a_labelled_table_and_what_they_pick_from_stays_whole():
    given = between(lambda y: y.index_select(1, torch.tensor([4, 2, 0, 4])), 4)
    (gather,) = (n for n in given.graph.graph.nodes if n.target == aten.index_select.default)
    table = str(gather.args[2].target)
    given.graph.meta[SELECTIONS] = (table,)
    assert units(given.found) == {unit(f"{table}:0[{i}]", f"h.weight:1[{i}]") for i in range(4)}
    assert frozen(given.found)["a.weight:0"] == {"features are selected from it": 6}
    plan = check_exact(given)
    assert len(plan.parameters[table][0]) == 2


def test_tokens_picked_by_positions_keep_their_channels():
    net = Net(lambda net, x: net.h(net.a(x)[:, [0, 3, 3]]), a=nn.Linear(3, 6), h=nn.Linear(6, 2))
    given = case(net, 5, 3)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_cat_chunk_and_a_residual_sum():
    """Half of the channels go through a layer, and both halves are joined and added."""

    def forward(net, x):
        y = net.a(x)
        first, second = y.chunk(2, 1)
        return net.h(torch.relu(torch.cat([first, net.b(second)], 1) + y))

    layers = {"a": nn.Conv2d(2, 6, 1), "b": nn.Conv2d(3, 3, 1), "h": nn.Conv2d(6, 2, 1)}
    given = case(Net(forward, **layers), 2, 4, 4)
    first = {unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"h.weight:1[{i}]") for i in range(3)}
    second = {
        unit(
            *(f"{slot}[{i + 3}]" for slot in ("a.weight:0", "a.bias:0", "h.weight:1")),
            *(f"b.{slot}[{i}]" for slot in ("weight:0", "weight:1", "bias:0")),
        )
        for i in range(3)
    }
    assert units(given.found) == first | second
    check_exact(given)
    check_gradients(given)


# --- padding ------------------------------------------------------------------------------------


def shortcut(first):
    """A residual sum whose shortcut is subsampled and padded with channels of zeros."""

    def forward(net, x):
        y = torch.relu(net.a(x))
        pad = (1, 2) if first else (0, 3)
        return net.h(torch.relu(net.b(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, *pad))))

    layers = {"a": nn.Conv2d(2, 3, 1), "b": nn.Conv2d(3, 6, 3, 2, 1), "h": nn.Conv2d(6, 2, 1)}
    return case(Net(forward, **layers), 2, 4, 4)


@pytest.mark.parametrize("first", [True, False])
def test_channels_of_zeros_follow_what_they_are_added_to(first):
    given = shortcut(first)
    low = 1 if first else 0
    made = [unit(f"b.weight:0[{c}]", f"b.bias:0[{c}]", f"h.weight:1[{c}]") for c in range(6)]
    for i in range(3):
        made[low + i] |= unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"b.weight:1[{i}]")
    assert units(given.found) == set(made)
    check_exact(given)


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_space_is_padded_by_any_number(value):
    given = between(lambda y: F.pad(y, (1, 2, 0, 1), value=value), 6)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_columns_that_read_a_number_may_go():
    given = between(lambda y: F.pad(y, (0, 0, 0, 0, 0, 2), value=1.5), 8)
    assert units(given.found) == rows(6, "a", "> h") | {unit(f"h.weight:1[{c}]") for c in (6, 7)}
    check_exact(given)


def test_columns_that_read_zeros_stay():
    given = between(lambda y: F.pad(y, (0, 0, 0, 0, 0, 2)), 8)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_space_is_padded_by_its_own_values(mode):
    given = between(lambda y: F.pad(y, (1, 2, 1, 0), mode=mode), 6)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_channels_padded_by_their_own_values_stay(mode):
    net = Net(
        lambda net, x: net.h(F.pad(net.a(x), (2, 1), mode=mode)),
        a=nn.Linear(3, 6),
        h=nn.Linear(9, 2),
    )
    given = case(net, 5, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {"padded by its own values": 6}


def test_negative_padding_of_space_crops():
    given = between(lambda y: F.pad(y, (-1, 0, 0, -1)), 6)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


def test_stacked_with_a_parameter():
    """A class token beside the mean of all tokens."""

    def forward(net, x):
        y = torch.relu(net.a(x)).mean(1)
        return net.h(torch.stack([net.t.p.expand(y.shape[0], -1), y], 1))

    given = case(Net(forward, a=nn.Linear(3, 6), t=Value(1, 6), h=nn.Linear(6, 2)), 5, 3)
    assert units(given.found) == {
        one | unit(f"t.p:1[{i}]")
        for i in range(6)
        for one in rows(6, "a", "> h")
        if f"h.weight:1[{i}]" in one
    }
    check_exact(given)
