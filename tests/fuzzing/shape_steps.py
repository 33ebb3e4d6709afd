"""Steps between images, sequences and vectors."""

import torch
from torch import nn

from fuzzing.building import Apply, NotHereError, Pick, register


@register(3)
def to_sequence(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() in (2, 4))
    if x.dim() == 2:
        size = pick.of(*[s for s in range(2, x.shape[1] + 1) if x.shape[1] % s == 0] or [1])
        if pick.flag():
            return Apply(lambda _, a: a.reshape(a.shape[0], size, -1))
        return Apply(lambda _, a: a.unflatten(1, (-1, size)))
    channels, height, width = x.shape[1:]
    kind = pick.of("tokens", "tokens", "channels", "view", "rows", "patches")
    if kind == "tokens":
        return Apply(lambda _, a: a.flatten(2).transpose(1, 2))
    if kind == "view":
        return Apply(lambda _, a: a.permute(0, 2, 3, 1).reshape(-1, height * width, channels))
    if kind == "rows":
        return Apply(lambda _, a: a.permute(0, 2, 1, 3).flatten(2))
    if kind == "patches" and height % 2 == width % 2 == 0:
        return Apply(
            lambda _, a: (
                a.view(-1, channels, height // 2, 2, width // 2, 2)
                .permute(0, 2, 4, 3, 5, 1)
                .flatten(3)
                .flatten(1, 2)
            )
        )
    return Apply(lambda _, a: a.flatten(2))


@register(2)
def to_image(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() in (2, 3))
    if x.dim() == 2:
        count = pick.of(*[s for s in range(1, x.shape[1] + 1) if x.shape[1] % s == 0])
        return Apply(lambda _, a: a.unflatten(1, (count, -1))[..., None])
    length, channels = x.shape[1:]
    rows = max(r for r in range(1, int(length**0.5) + 1) if length % r == 0)
    kind = pick.of("move", "view", "straight")
    if kind == "move":
        return Apply(lambda _, a: a.transpose(1, 2).unflatten(2, (rows, -1)))
    if kind == "view":
        return Apply(lambda _, a: a.mT.reshape(-1, channels, rows, length // rows))
    return (
        Apply(lambda _, a: a.reshape(-1, length, rows, channels // rows))
        if (channels % rows == 0)
        else Apply(lambda _, a: a.unsqueeze(3))
    )


@register(3)
def to_vector(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() > 2)
    if x.dim() == 4:
        return Apply(
            pick.of(
                lambda _, a: a.flatten(1),
                lambda _, a: a.mean((2, 3)),
                lambda _, a: a.amax((2, 3)),
                lambda _, a: a.sum((1, 2)),
                lambda _, a: a[:, :, 0, 0],
                lambda _, a: torch.cat([a.mean((2, 3)), a.amax((2, 3))], 1),
            )
        )
    return Apply(
        pick.of(
            lambda _, a: a.mean(1),
            lambda _, a: a[:, 0],
            lambda _, a: a.flatten(1),
            lambda _, a: a.mean(2),
            lambda _, a: a.transpose(1, 2).reshape(a.shape[0], -1),
            lambda _, a: a.max(1).values,
            lambda _, a: a.std(1) if a.shape[1] > 1 else a.sum(1),
        )
    )


@register(2)
def linear(pick: Pick) -> nn.Module:
    x = pick.tensor()
    return nn.Linear(x.shape[-1], pick.of(6, 4, 8, 3, 1, 5), bias=not pick.flag())


@register(3)
def linear_on_channels(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() < 4)
    return nn.Linear(x.shape[-1], pick.of(6, 4, 8, 12, 1, 5), bias=not pick.flag())


@register(2)
def mix_tokens(pick: Pick) -> nn.Module:
    x = pick.sequence()
    length, inner = x.shape[1], pick.of(4, 6, 3)
    if pick.flag():
        return Apply(
            lambda own, a: a + own.b(torch.relu(own.a(a.transpose(1, 2)))).transpose(1, 2),
            a=nn.Linear(length, inner),
            b=nn.Linear(inner, length),
        )
    return Apply(lambda own, a: own.a(a.mT).mT, a=nn.Linear(length, inner))


@register(2)
def add_tokens(pick: Pick) -> nn.Module:
    """A class token, positions, or a table read at constant places."""
    x = pick.sequence()
    length, width = x.shape[1:]
    kind = pick.of("positions", "class", "table")
    if kind == "positions":
        shape = pick.of((1, length, width), (length, width), (1, length, 1), (width,))
        return Apply(lambda own, a: a + own.p, p=torch.ones(shape))
    if kind == "class":
        return Apply(
            lambda own, a: torch.cat([own.p.expand(a.shape[0], -1, -1), a], 1),
            p=torch.ones(1, 1, width),
        )
    table = nn.Embedding(length + 1, width)
    return Apply(lambda own, a: a + own.table(torch.arange(length, device=a.device)), table=table)


@register(2)
def recurrent(pick: Pick) -> nn.Module:
    x = pick.sequence()
    make = pick.of(nn.LSTM, nn.GRU, nn.RNN)
    both, layers = pick.flag(), pick.of(1, 1, 2)
    layer = make(
        x.shape[2],
        pick.of(3, 4),
        layers,
        batch_first=True,
        bidirectional=both,
        bias=not pick.flag(),
    )
    if pick.number(4) == 3:
        return Apply(lambda own, a: own.layer(a)[0][:, -1], layer=layer)
    return Apply(lambda own, a: own.layer(a)[0], layer=layer)


@register(2)
def conv_1d(pick: Pick) -> nn.Module:
    x = pick.sequence()
    channels, width = x.shape[1], pick.of(4, 6, 2)
    groups = pick.of(1, 1, channels)
    width = channels if groups > 1 else width
    return nn.Conv1d(channels, width, 3, padding=1, groups=groups)


@register()
def windows(pick: Pick) -> nn.Module:
    """Rolled by one, cut into windows of 2 x 2, mixed in each, and put back (Swin)."""
    x = pick.image()
    channels, height, width = x.shape[1:]
    if height % 2 or width % 2:
        raise NotHereError
    shift = pick.of(0, 1)

    def mixed(own, a):
        a = a.permute(0, 2, 3, 1)
        a = torch.roll(a, (-shift, -shift), (1, 2)) if shift else a
        a = a.view(-1, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        a = own.layer(a.reshape(-1, 4, channels).transpose(1, 2)).transpose(1, 2)
        a = a.reshape(-1, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        a = a.reshape(-1, height, width, channels)
        return (torch.roll(a, (shift, shift), (1, 2)) if shift else a).permute(0, 3, 1, 2)

    return Apply(mixed, layer=nn.Linear(4, 4))
