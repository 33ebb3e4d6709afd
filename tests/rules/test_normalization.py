"""Norms, channel by channel and across channels, fused and spelled out."""

import numpy as np
import pytest
import torch
from couplings import (
    INPUT_FEATURES,
    UNLABELLED,
    Net,
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
from torch.nn import functional as F

import vibfx
from vibfx.passes import PruneChannels
from vibfx.planning import plan_units

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


# --- statistics of its own, channel by channel --------------------------------------------------

OWN_STATISTICS = {
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "instance norm, plain": nn.InstanceNorm2d(4),
    "batch norm without running ones": nn.BatchNorm2d(4, track_running_stats=False),
    "a group a channel": nn.GroupNorm(4, 4),
}


@pytest.mark.parametrize("name", OWN_STATISTICS)
def test_statistics_of_each_channel(name):
    net = Net(
        lambda net, x: net.b(torch.relu(net.n(net.a(x)))),
        a=nn.Conv2d(2, 4, 3),
        n=OWN_STATISTICS[name],
        b=nn.Conv2d(4, 3, 3),
    )
    given = case(net, 2, 8, 8)
    affine = (
        ("n.weight:0", "n.bias:0") if hasattr(net.n, "weight") and net.n.weight is not None else ()
    )
    assert units(given.found) == channels(4, "a.weight:0", "a.bias:0", *affine, "b.weight:1")
    check_exact(given)


class Buffers(nn.Module):
    """Scale and shift of a frozen batch norm."""

    def __init__(self, count):
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, count).view(1, -1, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, count).view(1, -1, 1, 1))


def test_a_frozen_batch_norm_written_as_buffers():
    net = Net(
        lambda net, x: net.b(torch.relu(net.a(x) * net.n.scale + net.n.shift)),
        a=nn.Conv2d(2, 4, 3),
        n=Buffers(4),
        b=nn.Conv2d(4, 3, 3),
    )
    given = case(net, 2, 8, 8)
    slots = ("a.weight:0", "a.bias:0", "n.scale:1", "n.shift:1", "b.weight:1")
    assert units(given.found) == channels(4, *slots)
    check_exact(given)


# --- across channels ----------------------------------------------------------------------------

ACROSS = "a norm runs across it"
STATISTIC = "a statistic is taken across it"


class Affine(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))


def layer_norm(net, y):
    mean = y.mean(-1, keepdim=True)
    variance = (y - mean).pow(2).mean(-1, keepdim=True)
    return (y - mean) / (variance + 1e-5).sqrt() * net.n.weight + net.n.bias


def from_var(net, y):
    variance = y.var(-1, unbiased=False, keepdim=True)
    return (y - y.mean(-1, keepdim=True)) * (variance + 1e-5).rsqrt() * net.n.weight + net.n.bias


def from_std(net, y):
    return (
        net.n.weight * (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + 1e-5)
        + net.n.bias
    )


def from_var_mean(net, y):
    variance, mean = torch.var_mean(y, -1, correction=0, keepdim=True)
    return (y - mean) / (variance + 1e-5).sqrt() * net.n.weight + net.n.bias


def rms(net, y):
    return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * net.n.weight + net.n.bias


def global_response(net, y):
    size = torch.linalg.vector_norm(y, dim=1, keepdim=True)
    return net.n.weight * (y * size / (size.mean(-1, keepdim=True) + 1e-6)) + net.n.bias + y


def unit_length(net, y):
    return F.normalize(y, dim=-1) * net.n.weight + net.n.bias


SPELLED = {
    "nn.LayerNorm": (lambda net, y: net.n(y), nn.LayerNorm(6), ACROSS),
    "nn.RMSNorm": (lambda net, y: net.n(y), nn.RMSNorm(6), ACROSS),
    "mean and square": (layer_norm, Affine(6), STATISTIC),
    "var": (from_var, Affine(6), STATISTIC),
    "std": (from_std, Affine(6), STATISTIC),
    "var_mean": (from_var_mean, Affine(6), STATISTIC),
    "rms": (rms, Affine(6), STATISTIC),
    "global response": (global_response, Affine(6), STATISTIC),
    "unit length": (unit_length, Affine(6), STATISTIC),
}


@pytest.mark.parametrize("name", SPELLED)
def test_channels_go_from_under_a_norm_across_them(name):
    function, norm, reason = SPELLED[name]
    net = Net(
        lambda net, x: net.b(function(net, net.a(x))),
        a=nn.Linear(3, 6),
        n=norm,
        b=nn.Linear(6, 2),
    )
    given = case(net, 5, 3)
    affine = [f"n.{part}:0" for part, _ in norm.named_parameters()]
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", *affine, "b.weight:1")
    check_exact(given)
    kept = vibfx.analyze(given.graph, norms="freeze")
    assert units(kept) == set()
    assert frozen(kept)["a.weight:0"] == {reason: 6}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_without_weights(norm):
    net = Net(
        lambda net, x: net.b(net.n(net.a(x))),
        a=nn.Linear(3, 6),
        n=norm(6, elementwise_affine=False),
        b=nn.Linear(6, 2),
    )
    given = case(net, 5, 3)
    assert units(given.found) == rows(6, "a", "> b")
    check_exact(given)


def test_a_cut_rms_norm_is_one_fused_norm_still():
    """Its share goes into the eps and, as a number beside a parameter, into the weight."""
    net = Net(
        lambda net, x: net.b(net.n(net.a(x))),
        a=nn.Linear(3, 6),
        n=nn.RMSNorm(6),
        b=nn.Linear(6, 2),
    )
    given = case(net, 5, 3)
    check_exact(given)
    plan = plan_units(given.graph, given.found, np.arange(given.found.units) % 2 == 0)
    small = PruneChannels(plan)(given.graph).graph_module
    (norm,) = small.graph.find_nodes(op="call_function", target=torch.ops.aten.rms_norm.default)
    weight = norm.args[2]
    assert weight.target is torch.ops.aten.mul.Tensor
    assert [node.op for node in weight.all_input_nodes] == ["get_attr"]
    assert [user.target for user in norm.users] == [torch.ops.aten.linear.default]


def test_the_precision_decides_the_eps_of_an_rms_norm_but_a_cut_does_not():
    net = Net(
        lambda net, x: net.b(net.n(1e-4 * net.a(x))),
        a=nn.Linear(3, 6),
        n=nn.RMSNorm(6),
        b=nn.Linear(6, 2),
    )
    check_exact(case(net, 5, 3))


def test_over_several_dimensions():
    """Over channels and space at once: a plane of the weight goes with its channel."""
    net = Net(
        lambda net, x: net.b(torch.relu(net.n(net.a(x)))),
        a=nn.Conv2d(2, 4, 3),
        n=nn.LayerNorm([4, 4, 4]),
        b=nn.Conv2d(4, 3, 3),
    )
    given = case(net, 2, 6, 6)
    slots = ("a.weight:0", "a.bias:0", "n.weight:0", "n.bias:0", "b.weight:1")
    assert units(given.found) == channels(4, *slots)
    check_exact(given)


def test_channels_last_and_back():
    net = Net(
        lambda net, x: net.b(net.n(net.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=nn.Conv2d(2, 4, 3),
        n=nn.LayerNorm(4),
        b=nn.Conv2d(4, 3, 3),
    )
    given = case(net, 2, 6, 6)
    slots = ("a.weight:0", "a.bias:0", "n.weight:0", "n.bias:0", "b.weight:1")
    assert units(given.found) == channels(4, *slots)
    check_exact(given)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (1, [(i,) for i in range(8)]),
        (2, [(i, i + 4) for i in range(4)]),
        (4, [(2 * i, 2 * i + 1) for i in range(4)]),
        (8, [(i,) for i in range(8)]),
    ],
)
def test_group_norm_loses_groups_or_columns(groups, expected):
    net = Net(
        lambda net, x: net.b(torch.relu(net.n(net.a(x)))),
        a=nn.Conv2d(2, 8, 3),
        n=nn.GroupNorm(groups, 8),
        b=nn.Conv2d(8, 3, 3),
    )
    given = case(net, 2, 6, 6)
    slots = ("a.weight:0", "a.bias:0", "n.weight:0", "n.bias:0", "b.weight:1")
    assert units(given.found) == {
        unit(*(f"{slot}[{','.join(map(str, own))}]" for slot in slots)) for own in expected
    }
    check_exact(given)


def test_pre_norm_residual_stream():
    def forward(net, x):
        y = net.e(x)
        y = y + net.f2(F.gelu(net.f1(net.n1(y))))
        return net.h(net.n2(y).mean(1))

    layers = {"e": nn.Linear(3, 6), "f1": nn.Linear(6, 8), "f2": nn.Linear(8, 6)}
    norms = {"n1": nn.LayerNorm(6), "n2": nn.RMSNorm(6)}
    given = case(Net(forward, **layers, **norms, h=nn.Linear(6, 2)), 5, 3)
    own = ("n1.weight:0", "n1.bias:0", "n2.weight:0", "f1.weight:1", "h.weight:1")
    makers = [f"{name}.{part}:0" for name in ("e", "f2") for part in ("weight", "bias")]
    assert units(given.found) == channels(6, *makers, *own) | rows(8, "f1", "> f2")
    check_exact(given)


def test_gradients_of_what_is_left_are_those_of_the_gated_network():
    net = Net(
        lambda net, x: net.b(net.n(net.a(x))),
        a=nn.Linear(3, 6),
        n=nn.LayerNorm(6),
        b=nn.Linear(6, 2),
    )
    check_gradients(case(net, 5, 3))
