"""Ops that slide over or resample space: channels pass, labels along space stay."""

import re
from typing import Any

import torch

from vibfx.labels import Tagged, compress
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


def _spatial_dims(facts: Facts) -> int:
    """How many trailing dimensions the op works on: the digit in its name."""
    found = re.search(r"(\d)d", str(facts.node.target))
    return int(found[1]) if found else 2


@rule(
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    zero=Zero.FIRST,
    scale=Scale.POSITIVE,
    feature_map=True,
)
@rule(
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool3d.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    feature_map=True,
)
@rule(
    *(
        overload
        for op in (
            aten.upsample_nearest1d,
            aten.upsample_nearest2d,
            aten.upsample_nearest3d,
            aten._upsample_nearest_exact1d,
            aten._upsample_nearest_exact2d,
            aten._upsample_nearest_exact3d,
            aten.upsample_linear1d,
            aten.upsample_bilinear2d,
            aten.upsample_trilinear3d,
            aten.upsample_bicubic2d,
            aten._upsample_bilinear2d_aa,
            aten._upsample_bicubic2d_aa,
        )
        for overload in (op.default, op.vec)
    ),
    aten.grid_sampler.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
)
def pool(facts: Facts, x: Tagged, *options: Any) -> Factors:
    """``pool(x[N, C, *]) -> [N, C, *]``. Example: channel labels 1 2 give 1 2 at the new size.

    Padding of a max pool is -inf, not zero, but a window always holds an element of the input.
    """
    for option in options:
        if isinstance(option, Tagged):  # a sampling grid
            facts.freeze(option.factors, "positions to sample at")
    return _resampled(facts, x, facts.result_shape)


@rule(
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.max_pool1d_with_indices.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    zero=Zero.FIRST,
    scale=Scale.POSITIVE,
)
def pool_with_indices(facts: Facts, x: Tagged, *options: Any) -> list[Factors]:
    """Like ``pool``, with the positions of the maxima as a second result."""
    values, _ = facts.node.meta["val"]
    shape = (*x.shape[: -_spatial_dims(facts)], *map(int, values.shape[-_spatial_dims(facts) :]))
    factors = _resampled(facts, x, shape)
    return [factors, factors]


@rule(aten.max_unpool2d.default, aten.max_unpool3d.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def unpool(facts: Facts, x: Tagged, positions: Tagged, *options: Any) -> Factors:
    """``max_unpool(x[N, C, *], positions[N, C, *]) -> [N, C, *]``: both lose the same channels."""
    tied = facts.elementwise([x, positions], x.shape)
    return _resampled(facts, Tagged(x.shape, tied), facts.result_shape)


def _resampled(facts: Facts, x: Tagged, shape: tuple[int, ...]) -> Factors:
    pooled = range(len(shape) - _spatial_dims(facts), len(shape))
    passed = []
    for factor in facts.keep(x.factors, pooled, "a window slides over it"):
        for dim in pooled:
            factor = factor.narrow(dim, 0, 1)
        passed.append(factor.expand(shape))
    return tuple(passed)


@rule(aten.im2col.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def unfold(facts: Facts, x: Tagged, kernel: list[int], *options: Any) -> Factors:
    """``unfold(x[N, C, H, W]) -> [N, C * kernel, L]``.

    Example: channels 1 2 under a window of two elements give 1 1 2 2.
    """
    window = kernel[0] * kernel[-1]
    shape = facts.result_shape
    flat = _resampled(facts, x, (*x.shape[:2], 1, 1))
    return tuple(compress(f[..., :1, 0].repeat_interleave(window, 1)).expand(shape) for f in flat)


@rule(aten.col2im.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def fold(facts: Facts, x: Tagged, _size: list[int], kernel: list[int], *options: Any) -> Factors:
    """``fold(x[N, C * kernel, L]) -> [N, C, H, W]``: the columns of one channel go together."""
    window = kernel[0] * kernel[-1]
    shape = facts.result_shape
    passed = []
    for factor in facts.keep(x.factors, [2], "a window slides over it"):
        columns = factor[..., :1].unflatten(1, (-1, window))
        passed.append(facts.couple(columns, 2)[:, :, :1].expand(shape))
    return tuple(passed)


@rule(aten.unfold.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def windows(facts: Facts, x: Tagged, dim: int, size: int, step: int) -> Factors:
    """``x.unfold(dim, size, step) -> [.., windows, .., size]``; labels along ``dim`` stay."""
    rest = facts.keep(x.factors, [dim % len(x.shape)], "a window slides over it")
    return tuple(f.unfold(dim, size, step) for f in rest)
