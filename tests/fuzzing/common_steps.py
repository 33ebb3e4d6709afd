"""Steps that work on a tensor of any kind, along its channels."""

import torch
from torch import nn
from torch.nn import functional as F

from fuzzing.building import Apply, NotHereError, Pick, axis, register

ACTIVATIONS = (
    *(torch.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.leaky_relu, F.hardswish, F.elu),
    *(F.softplus, F.relu6, F.mish, F.hardsigmoid, torch.cos, torch.abs, torch.square, torch.neg),
    *(lambda x: x + 0.5, lambda x: 0.5 * x, lambda x: 1 - x, lambda x: x.clamp(-1, 0.5)),
    *(lambda x: torch.exp(-x.square()), lambda x: x / 2, lambda x: x.clamp(min=0.25)),
    lambda x: torch.where(x > 0, x, 0.2 * x),
)


@register(8)
def activation(pick: Pick) -> nn.Module:
    x = pick.tensor()
    if pick.number(8) == 7 and x.dim() != 3:
        return nn.PReLU(pick.of(1, x.shape[1]))
    chosen = pick.of(*ACTIVATIONS)
    return Apply(lambda _, a: chosen(a))


@register(7)
def combine(pick: Pick) -> nn.Module:
    """Two tensors of one shape; a tensor and what a layer makes of it if there is no other."""
    x = pick.tensor()
    other = pick.like(x)
    op = pick.of(torch.add, torch.add, torch.sub, torch.mul, torch.maximum, _ratio)
    if other is not x:
        return Apply(lambda _, a, b: op(a, b))
    if x.dim() == 4:
        layer: nn.Module = nn.Conv2d(x.shape[1], x.shape[1], 3, padding=1)
    else:
        layer = nn.Linear(x.shape[-1], x.shape[-1])
    return Apply(lambda own, a, _: op(a, own.layer(a)), layer=layer)


def _ratio(a, b):
    return a / (1 + b.square())


@register(4)
def concat(pick: Pick) -> nn.Module:
    x = pick.tensor()
    dim = axis(x)
    if pick.number(5) == 4:
        return Apply(lambda _, a: torch.cat([a, a], dim))
    rest = [size for d, size in enumerate(x.shape) if d != dim]
    alike = [
        lambda y: y.dim() == x.dim() and [s for d, s in enumerate(y.shape) if d != dim] == rest
    ]
    for _ in range(pick.of(1, 2)):
        pick.tensor(alike[0])
    return Apply(lambda _, *parts: torch.cat(parts, dim))


@register(2)
def stack(pick: Pick) -> nn.Module:
    x = pick.tensor()
    pick.like(x)
    dim = axis(x)
    kind = pick.of("join", "sum", "interleave", "max")
    if kind == "sum":
        return Apply(lambda _, a, b: torch.stack([a, b]).sum(0))
    if kind == "max":
        return Apply(lambda _, a, b: torch.stack([a, b], -1).amax(-1))
    at = dim if kind == "join" else dim + 1
    return Apply(lambda _, a, b: torch.stack([a, b], at).flatten(dim, dim + 1))


@register(4)
def split(pick: Pick) -> nn.Module:
    x = pick.tensor()
    dim = axis(x)
    size = x.shape[dim]
    if size < 2:
        raise NotHereError
    at, kind = 1 + pick.number(size - 1), pick.of("chunk", "sizes", "again", "halves")
    if kind == "chunk":
        return Apply(lambda _, a: a.chunk(2, dim))
    if kind == "sizes":
        return Apply(lambda _, a: a.split([at, size - at], dim))
    if kind == "halves":
        return Apply(lambda _, a: [a.narrow(dim, 0, at), a.narrow(dim, at, size - at)])
    act = pick.of(torch.relu, torch.neg, torch.sigmoid)

    def again(_, a):
        left, right = a.split([at, size - at], dim)
        return torch.cat([right, act(left)], dim)

    return Apply(again)


@register(3)
def take(pick: Pick) -> nn.Module:
    """Some of the channels, by constant positions."""
    x = pick.tensor()
    dim = axis(x)
    size, kind = x.shape[dim], pick.of("stride", "list", "reverse", "repeated", "roll", "select")
    if kind == "stride":
        first = pick.of(0, 1) if size > 1 else 0
        return Apply(lambda _, a: a[(slice(None),) * dim + (slice(first, None, 2),)])
    if kind == "list":
        order = torch.randperm(size)[: 1 + pick.number(size)]
        return Apply(lambda _, a: a[(slice(None),) * dim + (order,)])
    if kind == "reverse":
        return Apply(lambda _, a: a.flip(dim))
    if kind == "roll":
        shift = pick.of(1, -1, 2)
        return Apply(lambda _, a: a.roll(shift, dim))
    if kind == "select":
        at = pick.number(size)
        return Apply(lambda _, a: a * a.select(dim, at).unsqueeze(dim))
    order = torch.randint(size, (size + 1,))
    return Apply(lambda _, a: a.index_select(dim, order))


@register(2)
def pad_channels(pick: Pick) -> nn.Module:
    x = pick.tensor()
    trailing = x.dim() - 1 - axis(x)
    amounts = (0,) * 2 * trailing + pick.of((0, 2), (1, 0), (1, 2))
    value = pick.of(0.0, 0.0, 1.0)
    if pick.number(3) == 2:
        dim = axis(x)
        return Apply(lambda _, a: torch.cat([a, torch.zeros_like(a)], dim))
    return Apply(lambda _, a: F.pad(a, amounts, value=value))


@register(2)
def repeat(pick: Pick) -> nn.Module:
    x = pick.tensor()
    dim = axis(x)
    if pick.flag():
        return Apply(lambda _, a: a.repeat_interleave(2, dim))
    times = [2 if d == dim else 1 for d in range(x.dim())]
    return Apply(lambda _, a: a.repeat(times))


@register(3)
def parameter(pick: Pick) -> nn.Module:
    """A bare parameter a channel: a layer scale, a bias, a gate, a slope."""
    x = pick.tensor()
    dim = axis(x)
    channels = x.shape[dim]
    value = torch.ones([channels if d == dim else 1 for d in range(1, x.dim())])
    kind = pick.of("scale", "shift", "gate", "both", "matrix")
    if kind == "matrix":
        width = pick.of(4, 3, 6)
        letters = "nchw"[: x.dim()] if dim == 1 else "ntc"
        equation = f"{letters},co->{letters.replace('c', 'o')}"
        return Apply(lambda own, a: torch.einsum(equation, a, own.p), p=torch.ones(channels, width))
    if kind == "both":
        return Apply(lambda own, a: a * own.p + own.q, p=value, q=value.clone())
    op = {
        "scale": lambda own, a: a * own.p,
        "shift": lambda own, a: a + own.p,
        "gate": lambda own, a: a * torch.sigmoid(own.p),
    }[kind]
    return Apply(op, p=value)


@register(4)
def spelled_norm(pick: Pick) -> nn.Module:
    """A norm along the channels: a layer, or written out."""
    x = pick.tensor()
    dim = axis(x)
    width = x.shape[dim]
    if width < 2:
        raise NotHereError
    kind = pick.of("layer", "rms", "hand_rms", "hand_layer", "normalize", "var_mean")
    if kind in ("layer", "rms"):
        norm = (nn.LayerNorm if kind == "layer" else nn.RMSNorm)(width)
        if x.dim() == 4:
            return Apply(lambda own, a: own.n(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=norm)
        return norm
    if kind == "normalize":
        return Apply(lambda _, a: F.normalize(a, dim=dim))
    weight = torch.ones([width if d == dim else 1 for d in range(1, x.dim())])
    if kind == "hand_rms":
        return Apply(
            lambda own, a: own.w * (a * torch.rsqrt(a.square().mean(dim, keepdim=True) + 1e-6)),
            w=weight,
        )
    if kind == "hand_layer":
        return Apply(
            lambda own, a: (
                own.w
                * (a - a.mean(dim, keepdim=True))
                / torch.sqrt(a.var(dim, keepdim=True, unbiased=False) + 1e-5)
            ),
            w=weight,
        )

    def normal(own, a):
        variance, mean = torch.var_mean(a, dim, keepdim=True)
        return (a - mean) / (variance + 1e-5).sqrt() * own.w

    return Apply(normal, w=weight)


@register(3)
def glu(pick: Pick) -> nn.Module:
    x = pick.tensor()
    dim = axis(x)
    if x.shape[dim] % 2:
        raise NotHereError
    kind, act = pick.of("glu", "halves", "strided"), pick.of(F.silu, torch.sigmoid, torch.relu)
    if kind == "glu":
        return nn.GLU(dim)

    def gated(_, a):
        if kind == "halves":
            left, right = a.chunk(2, dim)
        else:
            lead = (slice(None),) * dim
            left, right = a[(*lead, slice(0, None, 2))], a[(*lead, slice(1, None, 2))]
        return left * act(right)

    return Apply(gated)


@register(3)
def reduce(pick: Pick) -> nn.Module:
    """A statistic, put back onto the tensor."""
    x = pick.tensor()
    across = pick.of(axis(x), *range(1, x.dim()))
    op = pick.of(torch.mean, torch.sum, torch.amax, torch.amin, _spread, _length)
    back = pick.of(torch.add, torch.mul, torch.sub)
    return Apply(lambda _, a: back(a, op(a, across, keepdim=True)))


def _spread(x, dim, keepdim):
    return x.std(dim, keepdim=keepdim) if x.shape[dim] > 1 else x.sum(dim, keepdim=keepdim)


def _length(x, dim, keepdim):
    return (x.square().sum(dim, keepdim=keepdim) + 0.1).sqrt()


@register(2)
def soft(pick: Pick) -> nn.Module:
    """A softmax or a running sum along some dimension."""
    x = pick.tensor()
    across = pick.of(axis(x), *range(1, x.dim()))
    if pick.flag():
        return Apply(lambda _, a: a * a.softmax(across))
    return Apply(pick.of(lambda _, a: a.softmax(across), lambda _, a: a.cumsum(across)))


@register()
def products(pick: Pick) -> nn.Module:
    """Einsum or matrix products of two tensors of the network."""
    x = pick.tensor()
    pick.like(x)
    if x.dim() == 4:
        equation = pick.of(
            "nchw,nkhw->nckh", "nchw,nchw->nhw", "nchw,nchv->nhwv", "nchw,nckw->nchk"
        )
    elif x.dim() == 3:
        equation = pick.of("ntc,nsc->nts", "ntc,ntd->ncd", "ntc,ntc->nt", "ntc,nsc->nc")
    else:
        equation = pick.of("nc,nd->ncd", "nc,nc->nc")
    return Apply(lambda _, a, b: torch.einsum(equation, a, b))
