"""Steps that work on images ``[N, C, H, W]``."""

import torch
from torch import nn
from torch.nn import functional as F

from fuzzing.building import Apply, NotHereError, Pick, register

WIDTHS = (4, 6, 8, 3, 2, 5, 1)


@register(8)
def conv(pick: Pick) -> nn.Module:
    x = pick.image()
    kernel, width = pick.of(1, 3, (3, 1), 2), pick.of(*WIDTHS)
    stride = pick.of(1, 1, 2) if min(x.shape[2:]) >= 4 else 1
    bias, dilation = not pick.flag(), pick.of(1, 1, 2)
    padding = pick.of("half", "half", "none")
    size = max(kernel) if isinstance(kernel, tuple) else kernel
    reach = (size - 1) * dilation
    if padding == "none" and reach >= min(x.shape[2:]):
        raise NotHereError
    amount = (reach + 1) // 2 if padding == "half" else 0
    return nn.Conv2d(x.shape[1], width, kernel, stride, amount, dilation, bias=bias)


@register(4)
def grouped_conv(pick: Pick) -> nn.Module:
    x = pick.image()
    channels = x.shape[1]
    groups = pick.of(*[g for g in range(channels, 1, -1) if channels % g == 0] or [1])
    each = pick.of(1, 2, 3) if groups == channels else pick.of(2, 1, 3, channels // groups)
    bias = not pick.flag()
    if pick.number(4) == 3:
        return nn.ConvTranspose2d(channels, groups * each, 2, 2, groups=groups, bias=bias)
    return nn.Conv2d(channels, groups * each, 3, padding=1, groups=groups, bias=bias)


@register()
def transposed_conv(pick: Pick) -> nn.Module:
    x = pick.image()
    return nn.ConvTranspose2d(x.shape[1], pick.of(*WIDTHS), 2, pick.of(1, 2), bias=not pick.flag())


@register()
def weight_norm(pick: Pick) -> nn.Module:
    x, width = pick.image(), pick.of(*WIDTHS)
    across = pick.of((1, 2, 3), (0,))
    shape = (width, x.shape[1], 1, 1)
    scale = torch.ones(*(1 if d in across else size for d, size in enumerate(shape)))
    return Apply(
        lambda own, x: F.conv2d(x, own.g * own.v / own.v.square().sum(across, True).sqrt()),
        v=torch.ones(shape),
        g=scale,
    )


@register(2)
def shared_conv(pick: Pick) -> nn.Module:
    x = pick.image()
    layer = nn.Conv2d(x.shape[1], x.shape[1], 3, padding=1)
    between = pick.of(torch.relu, torch.sigmoid, torch.neg)
    if pick.flag():
        pick.tensor(lambda y: y.dim() == 4 and y.shape[1] == x.shape[1])
        return Apply(lambda own, a, b: (own.layer(a), between(own.layer(b))), layer=layer)
    return Apply(lambda own, a: own.layer(between(own.layer(a))), layer=layer)


@register(4)
def batch_norm(pick: Pick) -> nn.Module:
    x = pick.tensor(lambda x: x.dim() in (2, 4))
    channels = x.shape[1]
    affine = pick.number(4) < 3
    if x.dim() == 2:
        return nn.BatchNorm1d(channels, affine=affine)
    return nn.BatchNorm2d(channels, affine=affine)


@register(3)
def group_norm(pick: Pick) -> nn.Module:
    x = pick.image()
    channels = x.shape[1]
    if x[0, 0].numel() == 1:
        raise NotHereError
    groups = pick.of(*[g for g in range(1, channels + 1) if channels % g == 0])
    norms = (nn.GroupNorm(groups, channels), nn.InstanceNorm2d(channels, affine=pick.flag()))
    return pick.of(norms[0], norms[0], norms[1])


@register()
def norm_of_all(pick: Pick) -> nn.Module:
    x = pick.image()
    shape = list(pick.of(x.shape[1:], x.shape[2:], x.shape[3:]))
    if torch.Size(shape).numel() == 1:
        raise NotHereError
    return nn.LayerNorm(shape)


@register(2)
def pool(pick: Pick) -> nn.Module:
    x = pick.image()
    options = [nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Upsample(scale_factor=2)]
    options.append(nn.AvgPool2d(3, 1, 1, count_include_pad=pick.flag()))
    options.append(nn.MaxPool2d(3, 1, 1))
    options.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=pick.flag()))
    if min(x.shape[2:]) >= 2:
        options += [nn.MaxPool2d(2), nn.AvgPool2d(2)]
    return pick.of(*options)


@register(2)
def pixels(pick: Pick) -> nn.Module:
    """Between space and channels."""
    x = pick.image()
    channels, height, width = x.shape[1:]
    if pick.flag() and height % 2 == width % 2 == 0:
        kind = pick.of("op", "view", "unfold", "slices")
        if kind == "op":
            return nn.PixelUnshuffle(2)
        if kind == "unfold":
            return Apply(lambda _, a: F.unfold(a, 2, stride=2))
        if kind == "slices":
            corners = ((0, 0), (1, 0), (0, 1), (1, 1))
            return Apply(lambda _, a: torch.cat([a[:, :, i::2, j::2] for i, j in corners], 1))
        return Apply(
            lambda _, a: (
                a.view(-1, channels, height // 2, 2, width // 2, 2)
                .permute(0, 3, 5, 1, 2, 4)
                .reshape(-1, 4 * channels, height // 2, width // 2)
            )
        )
    if channels % 4:
        raise NotHereError
    return nn.PixelShuffle(2)


@register(2)
def channel_shuffle(pick: Pick) -> nn.Module:
    x = pick.image()
    channels, height, width = x.shape[1:]
    groups = pick.of(*[g for g in range(2, channels) if channels % g == 0] or [1])
    if pick.flag():
        return nn.ChannelShuffle(groups)
    return Apply(
        lambda _, a: (
            a.view(-1, groups, channels // groups, height, width)
            .transpose(1, 2)
            .reshape(-1, channels, height, width)
        )
    )


@register(2)
def squeeze_excite(pick: Pick) -> nn.Module:
    x = pick.image()
    channels, inner = x.shape[1], pick.of(2, 3, 1)
    gate = pick.of(torch.sigmoid, F.hardsigmoid, torch.tanh)
    between = pick.of(torch.relu, F.silu)
    if pick.flag():
        return Apply(
            lambda own, a: a * gate(own.up(between(own.down(a.mean((2, 3))))))[:, :, None, None],
            down=nn.Linear(channels, inner),
            up=nn.Linear(inner, channels),
        )
    return Apply(
        lambda own, a: a * gate(own.up(between(own.down(a.mean((2, 3), keepdim=True))))),
        down=nn.Conv2d(channels, inner, 1),
        up=nn.Conv2d(inner, channels, 1),
    )


@register()
def spatial_attention(pick: Pick) -> nn.Module:
    pick.image()
    if pick.flag():
        return Apply(lambda own, a: a * torch.sigmoid(own.c(a.mean(1, True))), c=nn.Conv2d(1, 1, 1))
    return Apply(
        lambda own, a: (
            a * torch.sigmoid(own.c(torch.cat([a.mean(1, True), a.amax(1, keepdim=True)], 1)))
        ),
        c=nn.Conv2d(2, 1, 3, padding=1),
    )


@register(2)
def pad_space(pick: Pick) -> nn.Module:
    x = pick.image()
    mode = pick.of("constant", "reflect", "replicate", "circular")
    if min(x.shape[2:]) < 2:
        raise NotHereError
    value = pick.of(0.0, 1.0) if mode == "constant" else None
    return Apply(lambda _, a: F.pad(a, (1, 0, 0, 1), mode, value))


@register(2)
def inverted_residual(pick: Pick) -> nn.Module:
    x = pick.image()
    channels, wide = x.shape[1], pick.of(4, 6, 8)
    act = pick.of(F.relu6, F.hardswish, torch.relu)
    return Apply(
        lambda own, a: a + own.c(act(own.norm(own.b(act(own.a(a)))))),
        a=nn.Conv2d(channels, wide, 1),
        b=nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
        norm=nn.BatchNorm2d(wide),
        c=nn.Conv2d(wide, channels, 1),
    )


@register(2)
def selective_kernel(pick: Pick) -> nn.Module:
    """Two branches, stacked and weighed by a softmax over them."""
    x, width = pick.image(), pick.of(4, 3, 6)
    return Apply(
        lambda own, a: (
            (both := torch.stack([own.a(a), own.b(a)], 1))
            * own.c(both.sum(1).mean((2, 3))).view(-1, 2, width).softmax(1)[..., None, None]
        ).sum(1),
        a=nn.Conv2d(x.shape[1], width, 1),
        b=nn.Conv2d(x.shape[1], width, 3, padding=1),
        c=nn.Linear(width, 2 * width),
    )
