"""Attention in its many spellings, and gated feed-forward blocks."""

import torch
from torch import nn
from torch.nn import functional as F

from fuzzing.building import Apply, Pick, register


def _heads(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _by_hand(q, k, v, bias):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return scores.softmax(-1) @ v


def _fused(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, bias)


def _einsum(q, k, v, bias):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


@register(4)
def attention(pick: Pick) -> nn.Module:
    x = pick.sequence()
    heads, each = pick.of(2, 1, 3, 4), pick.of(2, 3, 1)
    product = pick.of(_fused, _by_hand, _einsum)
    cut = pick.of("three", "chunk", "five", "split", "slices")
    residual, biased, projected = pick.flag(), pick.number(3) == 2, pick.number(4) < 3
    inner, length = heads * each, x.shape[1]
    parts = {"out": nn.Linear(inner, x.shape[2])} if projected else {}
    if biased:
        parts["bias"] = torch.ones(pick.of((heads, length, length), (1, length, length)))
    if cut == "three":
        parts |= {name: nn.Linear(x.shape[2], inner) for name in "qkv"}
    else:
        parts["qkv"] = nn.Linear(x.shape[2], 3 * inner, bias=pick.flag())

    def split(own, a):
        if cut == "three":
            return [_heads(layer(a), heads) for layer in (own.q, own.k, own.v)]
        joint = own.qkv(a)
        if cut == "five":
            return joint.reshape(-1, length, 3, heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        if cut == "slices":
            lines = [joint[..., at * inner : (at + 1) * inner] for at in range(3)]
        else:
            lines = joint.chunk(3, -1) if cut == "chunk" else joint.split(inner, -1)
        return [_heads(line, heads) for line in lines]

    def attend(own, a):
        y = product(*split(own, a), own.bias if biased else None)
        y = y.transpose(1, 2).reshape(-1, length, inner)
        y = own.out(y) if projected else y
        return a + y if residual and projected else y

    return Apply(attend, **parts)


@register()
def grouped_queries(pick: Pick) -> nn.Module:
    x = pick.sequence()
    heads, groups, each, length = 4, pick.of(2, 1, 4), pick.of(2, 3), x.shape[1]
    way = pick.of("fused", "repeat", "expand")

    def attend(own, a):
        q, k, v = _heads(own.q(a), heads), _heads(own.k(a), groups), _heads(own.v(a), groups)
        if way == "fused":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif way == "repeat":
            k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            shape = (-1, groups, heads // groups, length, each)
            k, v = (t[:, :, None].expand(shape).reshape(-1, heads, length, each) for t in (k, v))
            y = _by_hand(q, k, v, None)
        return own.out(y.transpose(1, 2).flatten(2))

    return Apply(
        attend,
        q=nn.Linear(x.shape[2], heads * each),
        k=nn.Linear(x.shape[2], groups * each),
        v=nn.Linear(x.shape[2], groups * each),
        out=nn.Linear(heads * each, x.shape[2]),
    )


@register()
def cross_attention(pick: Pick) -> nn.Module:
    x, y = pick.sequence(), pick.sequence()
    heads, each = pick.of(2, 1), pick.of(2, 3)
    return Apply(
        lambda own, a, b: own.out(
            F.scaled_dot_product_attention(
                _heads(own.q(a), heads), _heads(own.k(b), heads), _heads(own.v(b), heads)
            )
            .transpose(1, 2)
            .flatten(2)
        ),
        q=nn.Linear(x.shape[2], heads * each),
        k=nn.Linear(y.shape[2], heads * each),
        v=nn.Linear(y.shape[2], heads * each),
        out=nn.Linear(heads * each, pick.of(4, 6, 3)),
    )


@register()
def ready_made_attention(pick: Pick) -> nn.Module:
    x = pick.sequence()
    width = x.shape[2]
    heads = pick.of(*[h for h in (2, 1, 3, 4) if width % h == 0])
    if pick.flag():
        layer = nn.MultiheadAttention(width, heads, batch_first=True)
        return Apply(lambda own, a: own.layer(a, a, a, need_weights=False)[0], layer=layer)
    first, act = pick.flag(), pick.of("relu", "gelu")
    return nn.TransformerEncoderLayer(
        width, heads, 6, activation=act, batch_first=True, norm_first=first
    )


@register(2)
def linear_attention(pick: Pick) -> nn.Module:
    """Attention over channels rather than tokens, or without a softmax."""
    x = pick.sequence()
    inner, product = pick.of(4, 3, 6), pick.of("linear", "channels", "gram")

    def attend(own, a):
        q, k, v = own.q(a), own.k(a), own.v(a)
        if product == "linear":
            return q @ (k.transpose(1, 2) @ v)
        if product == "gram":
            return torch.einsum("nti,nsi->nts", q, k) @ v
        return v @ (q.transpose(1, 2) @ k).softmax(-1)

    return Apply(attend, **{name: nn.Linear(x.shape[2], inner) for name in "qkv"})


@register(2)
def feed_forward(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() < 4)
    inner, kind = pick.of(6, 4, 8), pick.of("plain", "swiglu", "halves", "glu")
    act = pick.of(F.gelu, F.silu, torch.relu, torch.sigmoid)
    layers = {"down": nn.Linear(inner, x.shape[-1])}
    if kind == "plain":
        layers["up"] = nn.Linear(x.shape[-1], inner)
        return Apply(lambda own, a: a + own.down(act(own.up(a))), **layers)
    if kind == "swiglu":
        layers |= {name: nn.Linear(x.shape[-1], inner) for name in ("up", "gate")}
        return Apply(lambda own, a: own.down(act(own.gate(a)) * own.up(a)), **layers)
    layers["up"] = nn.Linear(x.shape[-1], 2 * inner)
    if kind == "glu":
        return Apply(lambda own, a: a + own.down(F.glu(own.up(a), -1)), **layers)

    def gated(own, a):
        left, right = own.up(a).chunk(2, -1)
        return own.down(left * act(right))

    return Apply(gated, **layers)
