"""Convolutions of every kind: what goes together, and that cutting it is exact."""

import pytest
import torch
from couplings import (
    INPUT_CHANNELS,
    OUTPUT,
    TIED_TO_FIXED,
    Net,
    Value,
    case,
    channels,
    check_exact,
    check_gradients,
    frozen,
    rows,
    sites,
    sizes,
    unit,
    units,
)
from torch import nn

from vibfx.passes import PruneChannels
from vibfx.planning import plan_units
from vibfx.rules.convolution import CONVOLUTIONS, groups_of, removes_whole_groups

COLUMN_OF_GROUP = "a column inside the groups of a convolution that loses whole groups"


def chain(**layers):
    """The layers one after the other, with a ReLU behind each but the last."""

    def forward(net, x):
        *before, last = (getattr(net, name) for name in layers)
        for layer in before:
            x = torch.relu(layer(x))
        return last(x)

    return Net(forward, **layers)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_plain(dims):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    given = case(chain(a=conv(2, 4, 3), b=conv(4, 3, 3)), 2, *[6] * dims)
    assert units(given.found) == rows(4, "a", "> b")
    assert sites(given.found) == ["relu"]
    assert frozen(given.found) == {
        "a.weight:1": {INPUT_CHANNELS: 2},
        "b.weight:0": {OUTPUT: 3},
        "b.bias:0": {OUTPUT: 3},
    }
    check_exact(given)


def test_without_bias():
    layers = {"a": nn.Conv2d(2, 4, 3, bias=False), "b": nn.Conv2d(4, 3, 3, bias=False)}
    given = case(chain(**layers), 2, 6, 6)
    assert units(given.found) == channels(4, "a.weight:0", "b.weight:1")
    check_exact(given)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": 2, "dilation": 2},
        {"stride": 2, "padding": 1},
    ],
    ids=str,
)
def test_options_change_nothing(options):
    given = case(chain(a=nn.Conv2d(2, 4, 3, **options), b=nn.Conv2d(4, 3, 3, **options)), 2, 8, 8)
    assert units(given.found) == rows(4, "a", "> b")
    check_exact(given)


def test_three_layers():
    given = case(chain(a=nn.Conv2d(2, 4, 1), b=nn.Conv2d(4, 5, 3), c=nn.Conv2d(5, 3, 1)), 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> b") | rows(5, "b", "> c")
    assert sizes(given.found) == {"a": 4, "b": 5}
    check_exact(given)


def test_one_input_channel_is_not_depthwise():
    """A weight of one column looks like that of a depthwise convolution; its groups tell."""
    layers = {"a": nn.Conv2d(2, 1, 3), "b": nn.Conv2d(1, 4, 1), "c": nn.Conv2d(4, 3, 1)}
    given = case(chain(**layers), 2, 6, 6)
    assert units(given.found) == rows(4, "b", "> c")
    first = case(chain(b=layers["b"], c=layers["c"]), 1, 6, 6)
    assert units(first.found) == rows(4, "b", "> c")
    check_exact(first)


# --- grouped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "whole"),
    [
        ((1, 1, 8), True),
        ((1, 3, 4), True),
        ((2, 2, 4), True),
        ((4, 3, 2), False),
        ((4, 4, 1), False),
    ],
)
def test_the_sizes_decide_between_groups_and_columns(shape, whole):
    assert removes_whole_groups(*shape) is whole


def _pairs(*slots, count):
    """One unit for every two neighbouring indices of all slots."""
    return {unit(*(f"{s}[{2 * i},{2 * i + 1}]" for s in slots)) for i in range(count)}


@pytest.mark.parametrize("padding", [0, "same"])
def test_whole_groups(padding):
    grouped = nn.Conv2d(8, 8, 3, groups=4, padding=padding)
    given = case(chain(a=nn.Conv2d(2, 8, 1), b=grouped, c=nn.Conv2d(8, 3, 1)), 2, 6, 6)
    slots = ("a.weight:0", "a.bias:0", "b.weight:0", "b.bias:0", "c.weight:1")
    assert units(given.found) == _pairs(*slots, count=4)
    assert frozen(given.found)["b.weight:1"] == {COLUMN_OF_GROUP: 2}
    assert sites(given.found) == ["relu_1"]
    check_exact(given)


def test_whole_groups_with_wider_outputs():
    grouped = nn.Conv2d(4, 8, 3, groups=4)
    given = case(chain(a=nn.Conv2d(2, 4, 1), b=grouped, c=nn.Conv2d(8, 3, 1)), 2, 6, 6)
    assert units(given.found) == {
        unit(
            f"a.weight:0[{g}]",
            f"a.bias:0[{g}]",
            *(f"{slot}[{2 * g},{2 * g + 1}]" for slot in ("b.weight:0", "b.bias:0", "c.weight:1")),
        )
        for g in range(4)
    }
    check_exact(given)


def test_depthwise():
    grouped = nn.Conv2d(5, 5, 3, groups=5)
    given = case(chain(a=nn.Conv2d(2, 5, 1), b=grouped, c=nn.Conv2d(5, 3, 1)), 2, 6, 6)
    assert units(given.found) == rows(5, "a", "b", "> c")
    check_exact(given)


def test_depthwise_with_multiplier():
    grouped = nn.Conv2d(4, 12, 3, groups=4)
    given = case(chain(a=nn.Conv2d(2, 4, 1), b=grouped, c=nn.Conv2d(12, 3, 1)), 2, 6, 6)
    three = [f"[{3 * g},{3 * g + 1},{3 * g + 2}]" for g in range(4)]
    assert units(given.found) == {
        unit(
            f"a.weight:0[{g}]",
            f"a.bias:0[{g}]",
            *(slot + three[g] for slot in ("b.weight:0", "b.bias:0", "c.weight:1")),
        )
        for g in range(4)
    }
    check_exact(given)


def test_columns_of_every_group():
    grouped = nn.Conv2d(8, 6, 3, groups=2)
    given = case(chain(a=nn.Conv2d(2, 8, 1), b=grouped, c=nn.Conv2d(6, 3, 1)), 2, 6, 6)
    inputs = {
        unit(f"a.weight:0[{j},{4 + j}]", f"a.bias:0[{j},{4 + j}]", f"b.weight:1[{j}]")
        for j in range(4)
    }
    outputs = {
        unit(*(f"{slot}[{k},{3 + k}]" for slot in ("b.weight:0", "b.bias:0", "c.weight:1")))
        for k in range(3)
    }
    assert units(given.found) == inputs | outputs
    assert sizes(given.found) == {"a": 4, "b": 3}
    check_exact(given)


def _groups_after_cutting(given, *kept):
    """The ``groups`` of every convolution once only these units of the first group are kept."""
    keep = torch.zeros(given.found.units, dtype=torch.bool).numpy()
    keep[list(kept)] = True
    cut = PruneChannels(plan_units(given.graph, given.found, keep))(given.graph).graph_module
    return [groups_of(node) for node in cut.graph.nodes if node.target in CONVOLUTIONS]


def test_groups_fall_with_whole_groups_only():
    a, c = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1)
    whole = case(chain(a=a, b=nn.Conv2d(8, 8, 3, groups=4), c=c), 2, 6, 6)
    assert _groups_after_cutting(whole, 1) == [1, 1, 1]
    assert _groups_after_cutting(whole, 0, 2, 3) == [1, 3, 1]
    columns = case(chain(a=a, b=nn.Conv2d(8, 8, 3, groups=2), c=c), 2, 6, 6)
    assert _groups_after_cutting(columns, 0, 4) == [1, 2, 1]


def test_grouped_on_the_input_keeps_whole_groups():
    given = case(chain(b=nn.Conv2d(4, 8, 3, groups=2), c=nn.Conv2d(8, 3, 1)), 4, 6, 6)
    assert units(given.found) == set()
    assert frozen(given.found) == {
        "b.weight:0": {INPUT_CHANNELS: 8},
        "b.weight:1": {COLUMN_OF_GROUP: 2},
        "b.bias:0": {INPUT_CHANNELS: 8},
        "c.weight:0": {OUTPUT: 3},
        "c.weight:1": {INPUT_CHANNELS: 8},
        "c.bias:0": {OUTPUT: 3},
    }


def test_grouped_on_the_input_loses_columns_of_its_output():
    given = case(chain(b=nn.Conv2d(6, 8, 3, groups=2), c=nn.Conv2d(8, 3, 1)), 6, 6, 6)
    assert units(given.found) == {
        unit(*(f"{slot}[{k},{4 + k}]" for slot in ("b.weight:0", "b.bias:0", "c.weight:1")))
        for k in range(4)
    }
    assert frozen(given.found)["b.weight:1"] == {INPUT_CHANNELS: 3}
    check_exact(given)


def _behind_input(net, x):
    x = torch.cat([x, net.a(x)], 1)
    return net.c(torch.relu(net.b(x)))


def test_groups_that_hold_channels_of_the_input_stay():
    layers = {"a": nn.Conv2d(2, 4, 1), "b": nn.Conv2d(6, 6, 3, groups=3), "c": nn.Conv2d(6, 2, 1)}
    given = case(Net(_behind_input, **layers), 2, 6, 6)
    assert units(given.found) == {
        unit(
            *(f"a.{part}:0[{2 * g},{2 * g + 1}]" for part in ("weight", "bias")),
            *(
                f"{slot}[{2 * g + 2},{2 * g + 3}]"
                for slot in ("b.weight:0", "b.bias:0", "c.weight:1")
            ),
        )
        for g in range(2)
    }
    assert frozen(given.found)["b.weight:0"] == {TIED_TO_FIXED: 2}
    check_exact(given)


def test_columns_that_hold_channels_of_the_input_stay():
    layers = {"a": nn.Conv2d(2, 6, 1), "b": nn.Conv2d(8, 8, 3, groups=2), "c": nn.Conv2d(8, 2, 1)}
    given = case(Net(_behind_input, **layers), 2, 6, 6)
    inputs = {
        unit(f"a.weight:0[{j},{4 + j}]", f"a.bias:0[{j},{4 + j}]", f"b.weight:1[{2 + j}]")
        for j in range(2)
    }
    outputs = {
        unit(*(f"{slot}[{k},{4 + k}]" for slot in ("b.weight:0", "b.bias:0", "c.weight:1")))
        for k in range(4)
    }
    assert units(given.found) == inputs | outputs
    assert frozen(given.found)["a.weight:0"] == {TIED_TO_FIXED: 2}
    check_exact(given)


def test_labels_under_the_kernel_stay():
    given = case(Net(lambda net, x: net.b(net.a(x)), a=nn.Linear(4, 6), b=nn.Conv1d(3, 2, 3)), 3, 4)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {"a convolution slides over it": 6}


# --- transposed ---------------------------------------------------------------------------------

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed(dims):
    conv, up = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1], TRANSPOSED[dims - 1]
    given = case(chain(a=conv(2, 4, 1), b=up(4, 5, 2, 2), c=conv(5, 3, 1)), 2, *[3] * dims)
    read = channels(4, "a.weight:0", "a.bias:0", "b.weight:0")
    assert units(given.found) == read | channels(5, "b.weight:1", "b.bias:0", "c.weight:1")
    check_exact(given)
    check_gradients(given)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2, "output_padding": 1}, {"padding": 1, "dilation": 2}, {"bias": False}],
    ids=str,
)
def test_options_of_a_transposed_convolution(options):
    up = nn.ConvTranspose2d(4, 5, 3, **options)
    given = case(chain(a=nn.Conv2d(2, 4, 1), b=up, c=nn.Conv2d(5, 3, 1)), 2, 4, 4)
    assert sizes(given.found) == {"a": 4, "b": 5}
    check_exact(given)


def test_transposed_depthwise():
    up = nn.ConvTranspose2d(5, 5, 2, 2, groups=5)
    given = case(chain(a=nn.Conv2d(2, 5, 1), b=up, c=nn.Conv2d(5, 3, 1)), 2, 4, 4)
    assert units(given.found) == rows(5, "a", "b", "> c")
    check_exact(given)


def test_transposed_whole_groups():
    """Two channels of the input and three of the output a group."""
    up = nn.ConvTranspose2d(8, 12, 2, 2, groups=4)
    given = case(chain(a=nn.Conv2d(2, 8, 1), b=up, c=nn.Conv2d(12, 3, 1)), 2, 4, 4)
    assert units(given.found) == {
        unit(
            *(f"{s}[{2 * g},{2 * g + 1}]" for s in ("a.weight:0", "a.bias:0", "b.weight:0")),
            *(f"{s}[{3 * g},{3 * g + 1},{3 * g + 2}]" for s in ("b.bias:0", "c.weight:1")),
        )
        for g in range(4)
    }
    assert frozen(given.found)["b.weight:1"] == {COLUMN_OF_GROUP: 3}
    check_exact(given)


def test_transposed_columns_of_every_group():
    up = nn.ConvTranspose2d(8, 6, 2, 2, groups=2)
    given = case(chain(a=nn.Conv2d(2, 8, 1), b=up, c=nn.Conv2d(6, 3, 1)), 2, 4, 4)
    inputs = {
        unit(*(f"{slot}[{j},{4 + j}]" for slot in ("a.weight:0", "a.bias:0", "b.weight:0")))
        for j in range(4)
    }
    outputs = {
        unit(f"b.weight:1[{k}]", f"b.bias:0[{k},{3 + k}]", f"c.weight:1[{k},{3 + k}]")
        for k in range(3)
    }
    assert units(given.found) == inputs | outputs
    check_exact(given)


def test_a_view_in_front_of_a_transposed_convolution():
    """As in a generator: features of a linear layer become channels by space."""
    layers = {"l": nn.Linear(3, 16), "b": nn.ConvTranspose2d(4, 5, 2, 2), "c": nn.Conv2d(5, 3, 1)}
    net = Net(lambda net, x: net.c(torch.relu(net.b(net.l(x).view(-1, 4, 2, 2)))), **layers)
    given = case(net, 3)
    made = {
        unit(
            *(f"l.{p}:0[{','.join(str(4 * c + i) for i in range(4))}]" for p in ("weight", "bias")),
            f"b.weight:0[{c}]",
        )
        for c in range(4)
    }
    assert units(given.found) == made | channels(5, "b.weight:1", "b.bias:0", "c.weight:1")
    check_exact(given)


# --- weights that are shared or computed --------------------------------------------------------


def test_a_layer_used_twice_ties_what_it_reads_to_what_it_makes():
    given = case(
        Net(
            lambda net, x: net.c(torch.tanh(net.b(torch.tanh(net.b(net.a(x)))))),
            a=nn.Conv2d(2, 4, 1),
            b=nn.Conv2d(4, 4, 3, padding=1),
            c=nn.Conv2d(4, 3, 1),
        ),
        2,
        4,
        4,
    )
    slots = ("a.weight:0", "a.bias:0", "b.weight:0", "b.weight:1", "b.bias:0", "c.weight:1")
    assert units(given.found) == channels(4, *slots)
    check_exact(given)
    check_gradients(given)


class Blur(nn.Module):
    """A fixed kernel for every channel."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3).repeat(count, 1, 1, 1))
        self.groups = count

    def forward(self, x):
        return nn.functional.conv2d(x, self.kernel, stride=2, padding=1, groups=self.groups)


def test_a_blur_of_every_channel_by_a_buffer():
    given = case(chain(a=nn.Conv2d(2, 4, 1), b=Blur(4), c=nn.Conv2d(4, 3, 1)), 2, 6, 6)
    slots = ("a.weight:0", "a.bias:0", "b.kernel:0", "c.weight:1")
    assert units(given.found) == channels(4, *slots)
    check_exact(given)


class Standardized(nn.Conv2d):
    """Every filter has mean 0 and variance 1."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


COMPUTED = {
    "standardised": lambda: Standardized(2, 4, 3),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 4, 3)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_weights_that_are_computed_are_stored_and_cut(name):
    given = case(chain(a=COMPUTED[name](), b=nn.Conv2d(4, 3, 3)), 2, 6, 6)
    (group,) = given.found.groups
    assert group.size == 4
    assert {f"{slot.parameter}:{slot.dim}" for slot in group.slots} >= {"a.bias:0", "b.weight:1"}
    check_exact(given)


# --- a group for each example


def by_example(net, x):
    """Each example has a kernel of its own, mixed from three (CondConv)."""
    x = torch.relu(net.a(x))
    batch, channels, height, width = x.shape
    mix = torch.sigmoid(net.mix(x.mean((2, 3)))) @ net.kernels.p
    kernels = mix.view(batch * 6, channels, 3, 3)
    joined = x.reshape(1, batch * channels, height, width)
    y = nn.functional.conv2d(joined, kernels, padding=1, groups=batch)
    return net.c(torch.relu(net.b(torch.relu(y.view(batch, 6, height, width)))))


def test_a_convolution_with_a_group_for_each_example_freezes_what_it_reads():
    model = case(
        Net(
            by_example,
            a=nn.Conv2d(3, 8, 3, padding=1),
            mix=nn.Linear(8, 3),
            kernels=Value(3, 6 * 8 * 9),
            b=nn.Conv2d(6, 5, 1),
            c=nn.Conv2d(5, 4, 1),
        ),
        *(3, 8, 8),
    )
    reason = "read by a convolution with a group for each example"
    assert frozen(model.found)["a.weight:0"] == {reason: 8}
    assert sizes(model.found)["b"] == 5
    check_exact(model)
