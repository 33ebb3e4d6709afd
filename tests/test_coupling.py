"""Groups of units, names, what is frozen, and shapes kept boxes."""

import numpy as np
import pytest
import torch
from couplings import (
    INPUT_CHANNELS,
    INPUT_FEATURES,
    OUTPUT,
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

import vibfx
from vibfx.coupling import STAYS
from vibfx.errors import NothingRemovableError
from vibfx.labels import Slot
from vibfx.passes import InsertGates

TOGETHER = "all channels of a layer hang together, so that none of them can go alone"


def mlp():
    return case(
        Net(lambda net, x: net.b(torch.relu(net.a(x))), a=nn.Linear(3, 5), b=nn.Linear(5, 2)), 3
    )


# --- groups -------------------------------------------------------------------------------------


def test_groups_are_numbered_in_the_order_of_the_graph():
    net = Net(
        lambda net, x: net.c(torch.relu(net.b(torch.relu(net.a(x))))),
        a=nn.Linear(3, 5),
        b=nn.Linear(5, 4),
        c=nn.Linear(4, 2),
    )
    found = case(net, 3).found
    first, second = found.groups
    assert (first.name, first.start, first.size, first.sites) == ("a", 0, 5, ("relu",))
    assert (second.name, second.start, second.size, second.sites) == ("b", 5, 4, ("relu_1",))
    assert second.units == slice(5, 9)
    assert found.units == 9


def test_a_group_lists_what_its_units_touch():
    (group,) = mlp().found.groups
    assert group.slots == (
        Slot("a.weight", 0, 1, 5),
        Slot("a.bias", 0, 9, 5),
        Slot("b.weight", 1, 16, 5),
    )


def test_the_unit_of_every_index():
    found = mlp().found
    weight, columns, bias = found.space.slots[:3]
    assert found.units_of(weight).tolist() == [0, 1, 2, 3, 4]
    assert found.units_of(columns).tolist() == [STAYS] * 3
    assert found.units_of(bias).tolist() == [0, 1, 2, 3, 4]
    assert found.unit_of[0] == STAYS


def test_the_unit_of_every_gate_entry():
    module = InsertGates(mlp().found)(mlp().graph).graph_module
    found = vibfx.analyze(module)
    ((path, numbers),) = found.gate_units(module).items()
    assert path == "gates.a"
    assert numbers.tolist() == found.units_of(found.space.slots[0]).tolist()


def test_two_kinds_of_channels_of_one_layer():
    """Some channels of ``a`` meet channels of ``b``, the others those of ``c``."""

    def forward(net, x):
        return net.h(torch.cat([net.b(x), net.c(x)], 1) + torch.relu(net.a(x)))

    layers = {
        "a": nn.Linear(3, 5),
        "b": nn.Linear(3, 2),
        "c": nn.Linear(3, 3),
        "h": nn.Linear(5, 1),
    }
    given = case(Net(forward, **layers), 3)
    assert sizes(given.found) == {"a": 2, "a:2": 3}  # the first layer names both
    check_exact(given)


def test_a_layer_used_twice():
    def forward(net, x):
        x = torch.tanh(net.stem(x))
        x = torch.tanh(net.a(x))
        return net.h(torch.tanh(net.a(x)))

    layers = {"stem": nn.Linear(3, 6), "a": nn.Linear(6, 6), "h": nn.Linear(6, 2)}
    given = case(Net(forward, **layers), 3)
    assert units(given.found) == rows(6, "stem", "a", "> a", "> h")
    # A weight that is read twice takes up no factor, so two gates stay in front of a tanh.
    assert sites(given.found) == ["linear", "linear_1", "tanh_2"]
    check_exact(given)


def test_a_layer_used_on_two_branches():
    layers = {"a": nn.Linear(3, 6), "h": nn.Linear(6, 2)}
    given = case(
        Net(lambda net, x: net.h(torch.relu(net.a(x)) + torch.relu(net.a(-x))), **layers), 3
    )
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


# --- what stays ---------------------------------------------------------------------------------


def test_frozen_says_what_and_how_many_and_why():
    entries = [str(entry) for entry in mlp().found.frozen]
    assert entries == [
        f"a.weight dim 1 (3 of 3): {INPUT_FEATURES}",
        "b.weight dim 0 (2 of 2): the model's output",
        "b.bias dim 0 (2 of 2): the model's output",
    ]


def test_a_branch_that_nothing_reads_is_no_part_of_the_graph():
    def forward(net, x):
        net.b(x)
        return net.h(torch.relu(net.a(x)))

    layers = {"a": nn.Conv2d(2, 4, 3), "b": nn.Conv2d(2, 5, 3), "h": nn.Conv2d(4, 2, 1)}
    given = case(Net(forward, **layers), 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> h")
    assert not [slot for slot in frozen(given.found) if slot.startswith("b.")]
    check_exact(given)


def test_an_activation_that_is_an_output_stays():
    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.h(y), y

    given = case(Net(forward, a=nn.Conv2d(2, 4, 3), h=nn.Conv2d(4, 2, 1)), 2, 6, 6)
    assert units(given.found) == set()
    assert frozen(given.found) == {
        "a.weight:0": {OUTPUT: 4},
        "a.weight:1": {INPUT_CHANNELS: 2},
        "a.bias:0": {OUTPUT: 4},
        "h.weight:0": {OUTPUT: 2},
        "h.weight:1": {OUTPUT: 4},
        "h.bias:0": {OUTPUT: 2},
    }


def test_a_single_layer():
    given = case(Net(lambda net, x: net.a(x), a=nn.Conv2d(2, 4, 3)), 2, 6, 6)
    assert given.found.groups == given.found.sites == ()
    assert given.found.units == 0
    assert frozen(given.found) == {
        "a.weight:0": {OUTPUT: 4},
        "a.weight:1": {INPUT_CHANNELS: 2},
        "a.bias:0": {OUTPUT: 4},
    }
    with pytest.raises(NothingRemovableError, match=f"8 indices: {OUTPUT}; 2 indices: reads"):
        InsertGates(given.found)(given.graph)


def test_a_model_without_parameters():
    found = case(Net(lambda net, x: torch.relu(x)), 3).found
    assert found.groups == found.sites == found.frozen == ()


def test_channels_that_hang_together_stay():
    """Put twice in one order and twice in another, each channel meets the next."""

    def forward(net, x):
        y = net.a(x)
        y = torch.cat([y, y], 1)
        return net.h(y + y.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6))

    given = case(Net(forward, a=nn.Linear(4, 3), h=nn.Linear(6, 2)), 4)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {TOGETHER: 3}
    assert frozen(given.found)["h.weight:1"] == {TOGETHER: 6}


def test_removable_share():
    given = mlp()
    assert given.found.removable_share(given.graph) == pytest.approx((15 + 5 + 10) / 32, abs=1e-12)


def test_removable_share_counts_an_element_once():
    """An element lies in a removable unit by its row, its column or both."""

    def forward(net, x):
        return net.c(torch.relu(net.b(torch.cat([x, torch.relu(net.a(x))], 1))))

    given = case(
        Net(forward, a=nn.Linear(2, 2), b=nn.Linear(4, 3, bias=False), c=nn.Linear(3, 1)), 2
    )
    # a: 4 + 2, b: all 12 by their rows, c: 3; not the bias of c.
    assert given.found.removable_share(given.graph) == pytest.approx(21 / 22, abs=1e-12)


# --- shapes kept boxes --------------------------------------------------------------------------


def as_table(read):
    """12 features seen as a table of 3 x 4, then flattened again."""
    return case(
        Net(
            lambda net, x: net.h(read(torch.tanh(net.a(x).view(-1, 3, 4)))),
            a=nn.Linear(5, 12),
            h=nn.Linear(12, 2),
        ),
        5,
    )


def test_a_table_loses_slices_of_its_longer_side():
    """Columns: there are more of them than rows, so less goes with each."""
    given = as_table(lambda y: y.flatten(1))
    column = [",".join(str(4 * i + j) for i in range(3)) for j in range(4)]
    slots = ("a.weight:0", "a.bias:0", "h.weight:1")
    assert units(given.found) == {unit(*(f"{slot}[{c}]" for slot in slots)) for c in column}
    check_exact(given, share=0.4)


def test_a_transposed_table():
    given = as_table(lambda y: y.transpose(1, 2).flatten(1))
    assert units(given.found) == {
        unit(
            *(f"a.{p}:0[{','.join(str(4 * i + j) for i in range(3))}]" for p in ("weight", "bias")),
            f"h.weight:1[{','.join(str(3 * j + i) for i in range(3))}]",
        )
        for j in range(4)
    }
    check_exact(given, share=0.4)


def test_components_that_cut_across_a_table():
    """Features tied in pairs in one column: whole columns go, not rows in pairs."""

    def forward(net, x):
        y = net.a(x).view(-1, 4, 4)
        tied = torch.cat([net.s(x), net.s(x)], 1)  # feature i with feature i + 8
        return net.h(torch.tanh(y).flatten(1) + tied)

    given = case(Net(forward, a=nn.Linear(5, 16), s=nn.Linear(5, 8), h=nn.Linear(16, 2)), 5)
    features = [",".join(str(4 * r + j) for r in range(4)) for j in range(4)]
    halves = [",".join(str(4 * r + j) for r in range(2)) for j in range(4)]
    assert units(given.found) == {
        unit(
            *(f"{slot}[{features[i]}]" for slot in ("a.weight:0", "a.bias:0", "h.weight:1")),
            *(f"s.{part}:0[{halves[i]}]" for part in ("weight", "bias")),
        )
        for i in range(4)
    }
    check_exact(given)


def test_units_stay_apart_where_a_table_allows_it():
    """Rows of a table are already whole slices: nothing is coupled beyond them."""
    net = Net(
        lambda net, x: net.h(torch.tanh(net.a(x)).flatten(1).view(-1, 4, 9).flatten(1)),
        a=nn.Conv2d(1, 4, 2),
        h=nn.Linear(36, 2),
    )
    given = case(net, 1, 4, 4)
    assert given.found.units == 4
    check_exact(given)


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_mask_is_exact(seed):
    """Residual, cat and flatten in one network, with another random mask each time."""

    def forward(net, x):
        x = torch.relu(net.stem(x))
        x = torch.cat([x + net.a(torch.relu(net.b(x))), net.c(x)], 1)
        return net.h(torch.relu(x).flatten(1))

    net = Net(
        forward,
        stem=nn.Conv2d(2, 4, 3),
        a=nn.Conv2d(6, 4, 1),
        b=nn.Conv2d(4, 6, 3, padding=1, groups=2),
        c=nn.Conv2d(4, 3, 1),
        h=nn.Linear(28, 2),
    )
    given = case(net, 2, 4, 4)
    check_exact(given, seed=seed, share=(0.34, 0.5, 0.5, 0.75)[seed])


def test_units_are_counted_by_whole_numbers():
    found = mlp().found
    assert found.unit_of.dtype == np.int64
    assert units(found) == channels(5, "a.weight:0", "a.bias:0", "b.weight:1")
