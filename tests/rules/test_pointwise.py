"""Activations, sums, products and softmax: where labels pass, and where zeros end."""

import pytest
import torch
from couplings import (
    OUTPUT,
    TIED_TO_FIXED,
    UNLABELLED,
    Net,
    Value,
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
from torch import fx, nn
from torch.nn import functional as F

from vibfx.rules import RULES, Zero
from vibfx.rules.registry import TAG_RULES

aten = torch.ops.aten


def between(function, **layers):
    """Two convolutions, the second padded with zeros, and something between them."""
    net = Net(
        lambda net, x: net.b(function(net, net.a(x))),
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(4, 3, 3, padding=1),
        **layers,
    )
    return case(net, 2, 6, 6)


# --- one operand --------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu_": nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU(),
    "hardtanh": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "mish": nn.Mish(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "softplus": nn.Softplus(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gate_goes_behind_every_activation(name):
    given = between(lambda net, y: net.act(y), act=ACTIVATIONS[name])
    assert units(given.found) == rows(4, "a", "> b")
    assert sites(given.found) == [name]


KEEP_ZERO = {
    "dropout": F.dropout,
    "dropout2d": F.dropout2d,
    "clone": torch.clone,
    "detach": torch.detach,
    "contiguous": lambda y: y.contiguous(),
    "neg": torch.neg,
    "abs": torch.abs,
    "sqrt of abs": lambda y: y.abs().sqrt(),
    "times a number": lambda y: y * -2.5,
    "over a number": lambda y: y / 3,
    "times itself": lambda y: y * y,
    "plus itself": lambda y: torch.add(y, y, alpha=2),
    "minus its mean": lambda y: y * 2 - y,
}


@pytest.mark.parametrize("name", KEEP_ZERO)
def test_a_gate_goes_in_front_of_what_keeps_zero(name):
    given = between(lambda net, y: KEEP_ZERO[name](y))
    assert units(given.found) == rows(4, "a", "> b")
    assert sites(given.found) == ["conv2d"]
    check_exact(given)


MOVE_ZERO = {
    "add": lambda y: y + 1,
    "sub": lambda y: y - 0.5,
    "exp": torch.exp,
    "log": lambda y: (y.abs() + 1).log(),
    "rsqrt": lambda y: (y.abs() + 1).rsqrt(),
    "hardtanh": lambda y: F.hardtanh(y, 0.2, 1.0),
    "add_1": lambda y: torch.relu(y + 1) + 1,
    "div": lambda y: y / y.abs().sum((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", MOVE_ZERO)
def test_a_gate_goes_behind_what_moves_zero(name):
    given = between(lambda net, y: MOVE_ZERO[name](y))
    assert units(given.found) == rows(4, "a", "> b")
    assert sites(given.found) == [name]
    check_exact(given)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu_"}))
def test_only_some_activations_keep_zero(name):
    """With another reader of its input, the gate stays in front of an activation, if it may."""

    def forward(net, x):
        y = net.a(x)
        return net.c(y) + net.b(net.act(y))

    layers = {"a": nn.Linear(3, 6), "b": nn.Linear(6, 2), "c": nn.Linear(6, 2)}
    given = case(Net(forward, act=ACTIVATIONS[name], **layers), 3)
    moves_zero = name in ("sigmoid", "hardsigmoid", "softplus")
    assert sites(given.found) == (["linear", name] if moves_zero else ["linear"])
    check_exact(given)


@pytest.mark.parametrize(
    ("bounds", "zero"),
    [
        ((), Zero.FIRST),
        ((-2.0, 2.0), Zero.FIRST),
        ((0.0, 6.0), Zero.FIRST),
        ((-1.0, 0.0), Zero.FIRST),
        ((0.2, 1.0), None),
        ((-2.0, -1.0), None),
    ],
)
def test_hardtanh_keeps_zero_where_its_range_holds_it(bounds, zero):
    graph = fx.Graph()
    node = graph.call_function(aten.hardtanh.default, (graph.placeholder("x"), *bounds))
    for each in graph.nodes:
        each.meta["val"] = torch.zeros(2, 3)
    assert RULES[aten.hardtanh.default].zero_at(node) is zero


def test_a_zero_of_several_operands_needs_all_of_them():
    graph = fx.Graph()
    x, y, broadcast = (graph.placeholder(name) for name in "xyb")
    x.meta["val"] = y.meta["val"] = torch.zeros(2, 3)
    broadcast.meta["val"] = torch.zeros(3)
    calls = {
        (aten.maximum.default, x, y): Zero.EVERY,
        (aten.maximum.default, x, broadcast): None,
        (aten.pow.Tensor_Scalar, x, 2): Zero.FIRST,
        (aten.pow.Tensor_Scalar, x, 0): None,
        (aten.eq.Tensor, x, y): None,
    }
    for (target, *args), expected in calls.items():
        node = graph.call_function(target, tuple(args))
        node.meta["val"] = torch.zeros(2, 3)
        assert TAG_RULES[torch.Tag.pointwise].zero_at(node) is expected


# --- sums ---------------------------------------------------------------------------------------


def residual(net, x):
    x = torch.relu(net.stem(x))
    y = net.c2(torch.relu(net.c1(x)))
    y = torch.relu(y + (net.p(x) if hasattr(net, "p") else x))
    return net.h(y.mean((2, 3)))


def test_residual_sum():
    layers = {
        "stem": nn.Conv2d(2, 4, 3),
        "c1": nn.Conv2d(4, 5, 3, padding=1),
        "c2": nn.Conv2d(5, 4, 3, padding=1),
        "h": nn.Linear(4, 3),
    }
    given = case(Net(residual, **layers), 2, 6, 6)
    assert units(given.found) == rows(4, "stem", "> c1", "c2", "> h") | rows(5, "c1", "> c2")
    assert sizes(given.found) == {"stem": 4, "c1": 5}
    assert sites(given.found) == ["relu", "relu_1", "conv2d_2"]
    check_exact(given)


def test_residual_sum_with_projection():
    layers = {
        "stem": nn.Conv2d(2, 4, 3),
        "c1": nn.Conv2d(4, 5, 3, padding=1),
        "c2": nn.Conv2d(5, 6, 3, padding=1),
        "p": nn.Conv2d(4, 6, 1),
        "h": nn.Linear(6, 3),
    }
    given = case(Net(residual, **layers), 2, 6, 6)
    stem, stream = rows(4, "stem", "> c1", "> p"), rows(6, "c2", "p", "> h")
    assert units(given.found) == stem | rows(5, "c1", "> c2") | stream
    assert sites(given.found) == ["relu", "relu_1", "conv2d_2", "conv2d_3"]
    check_exact(given)


def test_a_sum_with_the_input_stays():
    layers = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 3, 3)}
    given = case(Net(lambda net, x: net.b(net.a(x) + x), **layers), 4, 6, 6)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {UNLABELLED: 4}
    assert frozen(given.found)["b.weight:1"] == {UNLABELLED: 4}


def test_a_sum_with_channels_of_the_input_among_others():
    def forward(net, x):
        z = torch.cat([x, net.a(x)], 1)
        return net.h(torch.relu(z + net.b(z)))

    layers = {"a": nn.Conv2d(2, 3, 1), "b": nn.Conv2d(5, 5, 1), "h": nn.Conv2d(5, 2, 1)}
    given = case(Net(forward, **layers), 2, 6, 6)
    behind = ("b.weight:0", "b.weight:1", "b.bias:0", "h.weight:1")
    assert units(given.found) == {
        frozenset([f"a.weight:0[{i}]", f"a.bias:0[{i}]", *(f"{slot}[{i + 2}]" for slot in behind)])
        for i in range(3)
    }
    assert frozen(given.found)["b.weight:0"] == {TIED_TO_FIXED: 2}
    check_exact(given)


BROADCAST = {
    "a channel of the input": (lambda net, y, x: y + x.mean(1, keepdim=True), {}),
    "a layer of one feature": (lambda net, y, x: y + net.g(x), {"g": nn.Linear(3, 1)}),
    "one parameter": (lambda net, y, x: y + net.v.p, {"v": Value(1)}),
    "a constant": (lambda net, y, x: y + torch.tensor(1.5), {}),
    "a parameter less the tensor": (lambda net, y, x: net.v.p - y, {"v": Value(1, 1)}),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_what_is_broadcast_over_channels_moves_zero(name):
    function, layers = BROADCAST[name]
    net = Net(
        lambda net, x: net.b(function(net, torch.relu(net.a(x)), x)),
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
        **layers,
    )
    given = case(net, 3)
    assert units(given.found) == rows(6, "a", "> b")
    assert sites(given.found) in (["add"], ["sub"])
    check_exact(given)


def test_an_outer_sum_moves_zero():
    def forward(net, x):
        return net.c(net.a(x).unsqueeze(2) + net.b(x).unsqueeze(1))

    layers = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 5), "c": nn.Linear(5, 2)}
    given = case(Net(forward, **layers), 3)
    assert units(given.found) == rows(5, "b", "> c")
    assert frozen(given.found)["a.weight:0"] == {OUTPUT: 4}
    assert sites(given.found) == ["add"]
    check_exact(given)


def test_a_bias_of_its_own():
    given = between(lambda net, y: torch.relu(y + net.v.p), v=Value(4, 1, 1))
    assert units(given.found) == channels(4, "a.weight:0", "a.bias:0", "v.p:0", "b.weight:1")
    check_exact(given)


# --- products -----------------------------------------------------------------------------------


def squeeze_and_excite(net, x):
    x = torch.relu(net.a(x))
    gate = torch.sigmoid(net.f2(torch.relu(net.f1(net.pool(x)))))
    return net.h(gate * x if net.swapped else x * gate)


@pytest.mark.parametrize("swapped", [False, True])
def test_squeeze_and_excite(swapped):
    net = Net(
        squeeze_and_excite,
        a=nn.Conv2d(2, 4, 3),
        pool=nn.AdaptiveAvgPool2d(1),
        f1=nn.Conv2d(4, 3, 1),
        f2=nn.Conv2d(3, 4, 1),
        h=nn.Conv2d(4, 2, 1),
    )
    net.swapped = swapped
    given = case(net, 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> f1", "f2", "> h") | rows(3, "f1", "> f2")
    assert sites(given.found) == ["relu", "relu_1"]
    check_exact(given)


def test_squeeze_and_excite_with_linear_layers():
    def forward(net, x):
        x = torch.relu(net.a(x))
        gate = torch.sigmoid(net.f2(torch.relu(net.f1(x.mean((2, 3))))))
        return net.h(x * gate.unsqueeze(-1).unsqueeze(-1))

    net = Net(
        forward,
        a=nn.Conv2d(2, 4, 3),
        f1=nn.Linear(4, 3),
        f2=nn.Linear(3, 4),
        h=nn.Conv2d(4, 2, 1),
    )
    given = case(net, 2, 6, 6)
    assert units(given.found) == rows(4, "a", "> f1", "f2", "> h") | rows(3, "f1", "> f2")
    check_exact(given)


def test_layer_scale():
    given = between(lambda net, y: y * net.v.p, v=Value(4, 1, 1))
    assert units(given.found) == channels(4, "a.weight:0", "a.bias:0", "v.p:0", "b.weight:1")
    assert sites(given.found) == ["conv2d"]
    check_exact(given)


def test_one_gate_for_all_channels_ties_none():
    given = between(lambda net, y: y * torch.sigmoid(net.g(y)), g=nn.Conv2d(4, 1, 1))
    assert units(given.found) == rows(4, "a", "> g", "> b")
    check_exact(given)


def test_one_scale_a_head():
    def forward(net, x):
        return net.h((net.a(x).unflatten(2, (3, 2)) * net.v.p).flatten(2))

    net = Net(forward, a=nn.Linear(4, 6), v=Value(3, 1), h=nn.Linear(6, 2))
    given = case(net, 5, 4)
    pairs = ("a.weight:0", "a.bias:0", "h.weight:1")
    assert units(given.found) == {
        frozenset([f"v.p:0[{h}]", *(f"{slot}[{i}]" for slot in pairs for i in (2 * h, 2 * h + 1))])
        for h in range(3)
    }
    check_exact(given, share=0.4)


def test_a_table_shared_by_heads_stays_and_whole_heads_go():
    def forward(net, x):
        return net.h((net.a(x).unflatten(2, (2, 4)) * net.v.p).flatten(2))

    given = case(Net(forward, a=nn.Linear(3, 8), v=Value(4), h=nn.Linear(8, 2)), 5, 3)
    slots = ("a.weight:0", "a.bias:0", "h.weight:1")
    assert units(given.found) == {
        unit(*(f"{s}[{','.join(map(str, head))}]" for s in slots))
        for head in (range(4), range(4, 8))
    }
    reason = "shares a parameter with a tensor of more dimensions"
    assert frozen(given.found)["v.p:0"] == {reason: 4}
    check_exact(given)


@pytest.mark.parametrize(
    "op",
    [
        torch.ops.aten.abs,
        torch.ops.aten.sqrt,
        torch.ops.aten.neg,
        torch.ops.aten.relu,
        torch.ops.aten.gelu,
    ],
)
def test_a_factor_passes_only_what_is_proportional(op):
    x = torch.linspace(0.5, 4.0, 7)
    proportional = torch.allclose(op.default(2 * x), 2 * op.default(x))
    assert (RULES[op.default].scale is not None) == proportional
