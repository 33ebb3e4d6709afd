"""Attention of every kind: heads go whole, with their rows of every projection."""

import pytest
import torch
from couplings import Net, Value, case, check_exact, unit, units
from torch import nn
from torch.nn import functional as F


def split(y, heads):
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(y):
    return y.transpose(1, 2).flatten(2)


def fused(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def by_hand(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v


def spelled(equation, values):
    def compute(q, k, v):
        return torch.einsum(values, torch.softmax(torch.einsum(equation, q, k), -1), v)

    return compute


def in_the_batch(q, k, v):
    q, k, v = (y.reshape(-1, *y.shape[2:]) for y in (q, k, v))
    y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v)
    return y.reshape(-1, 3, *y.shape[1:])


def module(compute, size=2, key_heads=3, **layers):
    """Three query heads of ``size`` features, on five tokens of four features."""

    def forward(net, x):
        q, k, v = split(net.q(x), 3), split(net.k(x), key_heads), split(net.v(x), key_heads)
        return net.o(merge(compute(net, q, k, v)))

    keys = key_heads * size
    return Net(
        forward,
        q=nn.Linear(4, 3 * size),
        k=nn.Linear(4, keys),
        v=nn.Linear(4, keys),
        o=nn.Linear(3 * size, 2),
        **layers,
    )


def span(slot, *indices):
    return f"{slot}[{','.join(map(str, indices))}]"


def made(layers, *indices):
    return [span(f"{name}.{part}:0", *indices) for name in layers for part in ("weight", "bias")]


def heads(count=3, size=2, extra=()):
    """One unit a head: its rows of q, k and v, and its columns of o."""
    found = set()
    for h in range(count):
        own = range(h * size, (h + 1) * size)
        found.add(unit(*made("qkv", *own), span("o.weight:1", *own), *(f"{e}[{h}]" for e in extra)))
    return found


WAYS = {
    "fused": fused(),
    "causal": fused(is_causal=True),
    "scaled": fused(scale=0.3),
    "masked": fused(attn_mask=torch.ones(5, 5, dtype=torch.bool).tril()),
    "by hand": by_hand,
    "einsum": spelled("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd"),
    "in the batch": in_the_batch,
}


@pytest.mark.parametrize("name", WAYS)
def test_heads_go_whole(name):
    given = case(module(lambda net, *qkv: WAYS[name](*qkv)), 5, 4)
    assert units(given.found) == heads()
    check_exact(given, share=0.4)


def test_a_bias_for_every_head_goes_with_it():
    def compute(net, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=net.b.p)

    given = case(module(compute, b=Value(1, 3, 5, 5)), 5, 4)
    assert units(given.found) == heads(extra=["b.p:1"])
    check_exact(given, share=0.4)


def test_a_relative_bias_looked_up_for_every_head():
    where = torch.arange(5)[:, None] - torch.arange(5)[None] + 4

    def compute(net, q, k, v):
        bias = net.b.p[where].permute(2, 0, 1)
        return torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v

    given = case(module(compute, b=Value(9, 3)), 5, 4)
    assert units(given.found) == heads(extra=["b.p:1"])
    check_exact(given, share=0.4)


def test_a_scale_for_every_head():
    def compute(net, q, k, v):
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return torch.softmax(q @ k.transpose(-1, -2) * net.s.p.exp(), -1) @ v

    given = case(module(compute, s=Value(3, 1, 1)), 5, 4)
    assert units(given.found) == heads(extra=["s.p:0"])
    check_exact(given, share=0.4)


# --- grouped queries ----------------------------------------------------------------------------


def grouped(compute, key_heads):
    """Four query heads of two features each."""

    def forward(net, x):
        q, k, v = split(net.q(x), 4), split(net.k(x), key_heads), split(net.v(x), key_heads)
        return net.o(merge(compute(q, k, v)))

    keys = 2 * key_heads
    layers = {"k": nn.Linear(4, keys), "v": nn.Linear(4, keys), "o": nn.Linear(8, 2)}
    return case(Net(forward, q=nn.Linear(4, 8), **layers), 5, 4)


def _expanded(y):
    return y[:, :, None].expand(-1, -1, 2, -1, -1).reshape(-1, 4, 5, 2)


GROUPED = {
    "fused": fused(enable_gqa=True),
    "repeat_interleave": lambda q, k, v: by_hand(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    ),
    "expand": lambda q, k, v: by_hand(q, _expanded(k), _expanded(v)),
}


@pytest.mark.parametrize("name", GROUPED)
def test_with_grouped_queries_a_unit_is_a_key_head_with_its_queries(name):
    given = grouped(GROUPED[name], 2)
    assert units(given.found) == {
        unit(
            *made("q", *range(4 * g, 4 * g + 4)),
            *made("kv", 2 * g, 2 * g + 1),
            span("o.weight:1", *range(4 * g, 4 * g + 4)),
        )
        for g in range(2)
    }
    check_exact(given)


@pytest.mark.parametrize("compute", [fused(enable_gqa=True), by_hand], ids=["fused", "broadcast"])
def test_with_one_key_head_a_unit_is_one_of_its_features(compute):
    """It cannot go itself, but every head may lose the same feature."""
    given = grouped(compute, 1)
    features = [(i, range(i, 8, 2)) for i in range(2)]
    assert units(given.found) == {
        unit(*made("k", i), *made("q", *queries)) for i, queries in features
    } | {unit(*made("v", i), span("o.weight:1", *columns)) for i, columns in features}
    check_exact(given)


# --- one projection for all ---------------------------------------------------------------------

JOINT = {
    "chunk": lambda y: [split(part, 3) for part in y.chunk(3, -1)],
    "split": lambda y: [split(part, 3) for part in y.split(6, -1)],
    "unbind": lambda y: y.unflatten(-1, (3, 3, 2)).permute(2, 0, 3, 1, 4).unbind(0),
    "reshape": lambda y: y.reshape(-1, 5, 3, 3, 2).permute(2, 0, 3, 1, 4),
    "slice": lambda y: [split(y[..., 6 * i : 6 * i + 6], 3) for i in range(3)],
    "select": lambda y: [y.view(-1, 5, 3, 3, 2)[:, :, i].transpose(1, 2) for i in range(3)],
}


@pytest.mark.parametrize("name", JOINT)
def test_queries_keys_and_values_of_one_layer(name):
    def forward(net, x):
        q, k, v = JOINT[name](net.qkv(x))
        return net.o(merge(by_hand(q, k, v)))

    given = case(Net(forward, qkv=nn.Linear(4, 18), o=nn.Linear(6, 2)), 5, 4)
    assert units(given.found) == {
        unit(
            *made(["qkv"], *(6 * part + 2 * h + i for part in range(3) for i in range(2))),
            span("o.weight:1", 2 * h, 2 * h + 1),
        )
        for h in range(3)
    }
    check_exact(given, share=0.4)


# --- what else is done to queries and keys ------------------------------------------------------


def rotated(y, cos, sin):
    first, second = y.chunk(2, -1)
    return y * cos + torch.cat([-second, first], -1) * sin


def test_rotary_tables():
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1])
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("cos", cos)
            self.register_buffer("sin", sin)

    def compute(net, q, k, v):
        q, k = (rotated(y, net.t.cos, net.t.sin) for y in (q, k))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    given = case(module(compute, size=4, t=Tables()), 5, 4)
    assert units(given.found) == heads(size=4)
    check_exact(given, share=0.4)


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_inside_every_head(norm, affine):
    def compute(net, q, k, v):
        return F.scaled_dot_product_attention(net.nq(q), net.nk(k), v)

    layers = {name: norm(4, elementwise_affine=affine) for name in ("nq", "nk")}
    given = case(module(compute, size=4, **layers), 5, 4)
    assert units(given.found) == heads(size=4)
    check_exact(given, share=0.4)


def test_a_norm_shared_by_heads_in_front_of_the_last_layer():
    given = case(module(lambda net, q, k, v: net.n(by_hand(q, k, v)), n=nn.RMSNorm(2)), 5, 4)
    assert units(given.found) == heads()
    check_exact(given, share=0.4)


def test_cross_attention():
    def forward(net, x):
        memory = torch.relu(net.m(x))
        q, k, v = split(net.q(x[:, :3]), 3), split(net.k(memory), 3), split(net.v(memory), 3)
        return net.o(merge(by_hand(q, k, v)))

    layers = {name: nn.Linear(7, 6) for name in "kv"}
    net = Net(forward, m=nn.Linear(4, 7), q=nn.Linear(4, 6), **layers, o=nn.Linear(6, 2))
    given = case(net, 5, 4)
    memory = {unit(*made("m", i), f"k.weight:1[{i}]", f"v.weight:1[{i}]") for i in range(7)}
    assert units(given.found) == heads() | memory
    check_exact(given, share=0.4)


# --- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1])
def test_windows(shift):
    """Of 4 x 4 tokens, in 2 x 2 windows, shifted by one."""

    def forward(net, x):
        y = net.e(x).view(-1, 4, 4, 5)
        y = y.roll((-shift, -shift), (1, 2)) if shift else y
        y = y.view(-1, 2, 2, 2, 2, 5).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 5)
        q, k, v = net.qkv(y).reshape(-1, 4, 3, 3, 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = net.o(merge(by_hand(q, k, v)))
        y = y.view(-1, 2, 2, 2, 2, 5).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 5)
        y = y.roll((shift, shift), (1, 2)) if shift else y
        return net.h(y.flatten(1, 2))

    layers = {"e": nn.Linear(3, 5), "qkv": nn.Linear(5, 18), "o": nn.Linear(6, 5)}
    given = case(Net(forward, **layers, h=nn.Linear(5, 2)), 16, 3)
    stream = {unit(*made("e", i), f"qkv.weight:1[{i}]") for i in range(5)}
    out = {unit(*made("o", i), f"h.weight:1[{i}]") for i in range(5)}
    own = {
        unit(
            *made(["qkv"], *(6 * part + 2 * h + i for part in range(3) for i in range(2))),
            span("o.weight:1", 2 * h, 2 * h + 1),
        )
        for h in range(3)
    }
    assert units(given.found) == stream | out | own
    check_exact(given, share=0.4)


# --- PyTorch's own layers -----------------------------------------------------------------------


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(need_weights, batch_first):
    def forward(net, x):
        y = net.e(x)
        y = y if batch_first else y.transpose(0, 1)
        y = net.m(y, y, y, need_weights=need_weights)[0]
        return net.h(y if batch_first else y.transpose(0, 1))

    m = nn.MultiheadAttention(6, 3, batch_first=batch_first)
    given = case(Net(forward, e=nn.Linear(4, 6), m=m, h=nn.Linear(6, 2)), 5, 4)
    own = {
        unit(
            *(
                span(slot, *(6 * part + 2 * h + i for part in range(3) for i in range(2)))
                for slot in ("m.in_proj_weight:0", "m.in_proj_bias:0")
            ),
            span("m.out_proj.weight:1", 2 * h, 2 * h + 1),
        )
        for h in range(3)
    }
    stream = {unit(*made("e", i), f"m.in_proj_weight:1[{i}]") for i in range(6)}
    out = {unit(*made(["m.out_proj"], i), f"h.weight:1[{i}]") for i in range(6)}
    assert units(given.found) == own | stream | out
    check_exact(given, share=0.4)


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_layer(norm_first):
    layer = nn.TransformerEncoderLayer(6, 3, 8, batch_first=True, norm_first=norm_first)
    net = Net(lambda net, x: net.h(net.t(net.e(x))), e=nn.Linear(4, 6), t=layer, h=nn.Linear(6, 2))
    given = case(net, 5, 4)
    assert sorted(group.size for group in given.found.groups) == [3, 6, 8]
    check_exact(given, share=0.4)


def test_a_decoder_layer():
    def forward(net, x):
        return net.h(net.t(net.e(x[:, :3]), net.m(x)))

    layer = nn.TransformerDecoderLayer(6, 3, 8, batch_first=True)
    net = Net(forward, e=nn.Linear(4, 6), m=nn.Linear(4, 6), t=layer, h=nn.Linear(6, 2))
    given = case(net, 5, 4)
    # Heads of both attentions, the hidden layer, and the stream, to which the memory is tied: one
    # weight of the cross attention reads both.
    assert sorted(group.size for group in given.found.groups) == [3, 3, 6, 8]
    check_exact(given, share=0.4)
