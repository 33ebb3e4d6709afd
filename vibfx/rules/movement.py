"""Ops that rearrange a whole tensor: the op itself runs on the labels, so any order is right."""

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import ALWAYS_KEPT, Tagged, compress, varying
from vibfx.rules.cut import Cut, KeptIndices
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten

# Ops that reorder what one tensor holds, and whether their result's shape may count examples.
RESHAPING = {
    aten.view.default: True,
    aten.reshape.default: True,
    aten._unsafe_view.default: True,
    aten.flatten.using_ints: False,
    aten.unflatten.int: True,
    aten.permute.default: False,
    aten.transpose.int: False,
    aten.swapaxes.default: False,
    aten.movedim.int: False,
    aten.unsqueeze.default: False,
    aten.squeeze.dim: False,
    aten.squeeze.dims: False,
    aten.contiguous.default: False,
    aten.clone.default: False,
    aten.channel_shuffle.default: False,
}
SHUFFLES = {aten.channel_shuffle.default}

# Ops whose result holds elements of their operands and nothing else.
MOVES = {
    *RESHAPING,
    aten.t.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.slice.Tensor,
    aten.select.int,
    aten.index.Tensor,
    aten.index_select.default,
    aten.cat.default,
    aten.stack.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.alias.default,
    aten.detach.default,
    aten.to.dtype,
    aten._to_copy.default,
    operator.getitem,
}


def moved(facts: Facts, factors: Any) -> Factors:
    """What came out of running a movement op on factors.

    Labels that fill a whole result on their own (a channel picked by its number) stay: without
    them there would be nothing left.
    """
    passed = []
    for factor in map(compress, factors):
        if varying(factor):
            passed.append(factor)
        elif factor.numel() and int(factor.flatten()[0]) != ALWAYS_KEPT:
            facts.freeze([factor], "a single channel is picked by its number")
    return tuple(passed)


def resized(node: fx.Node, literals: Any, kept: KeptIndices) -> list[Any]:
    """A list of sizes with the dimensions that shrank filled in.

    A symbol that shrank counts channels as well as the batch and becomes -1; a -1 that stands
    already gives way to its number.
    """
    sizes = [_new_size(size, keep) for size, keep in zip(literals, kept, strict=True)]
    if sizes.count(-1) > 1:
        known = node.meta["val"].shape
        sizes = [
            int(known[dim]) if size == -1 and isinstance(known[dim], int) else size
            for dim, size in enumerate(sizes)
        ]
    return sizes


def _new_size(size: Any, keep: Tensor | None) -> Any:
    if keep is None or size == -1:
        return size
    return keep.numel() if isinstance(size, int) else -1


def _new_shape(node: fx.Node, cut: Cut) -> None:
    if not isinstance(node.args[1], (list, tuple)):
        return
    literals = list(node.args[1])
    node.update_arg(1, resized(node, literals, cut.of(node)[-len(literals) :]))


def _new_unflatten(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    at = args[1] % len(cut.shapes[args[0]])
    node.update_arg(2, resized(node, args[2], cut.of(node)[at : at + len(args[2])]))


@rule(
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    resize=_new_shape,
)
def reshape(facts: Facts, x: Tagged, shape: list[int]) -> Factors:
    """``view(x, sizes)``. Example: 1 2 over [2, 3] flattened is 1 1 1 2 2 2."""
    return moved(facts, (f.reshape(facts.result_shape) for f in x.factors))


@rule(aten.flatten.using_ints, zero=Zero.FIRST, scale=Scale.LINEAR, feature_map=True)
@rule(
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.numpy_T.default,
    aten.mT.default,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.flip.default,
    aten.repeat.default,
    aten.tile.default,
    aten.repeat_interleave.self_int,
    aten.atleast_2d.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
)
@rule(
    aten.unflatten.int,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    resize=_new_unflatten,
)
def rearrange(facts: Facts, x: Tagged, *arguments: Any) -> Factors:
    """Ops whose arguments name dimensions: run as they are. Example: ``permute`` of a factor."""
    op: Any = facts.node.target
    return moved(facts, (op(f, *arguments) for f in x.factors))


@rule(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def shuffle_pixels(facts: Facts, x: Tagged, factor: int) -> Factors:
    """``pixel_shuffle(x[*, C r^2, H, W], r) -> [*, C, H r, W r]`` and its inverse.

    Height and width keep their sizes, so the r^2 channels of a pixel live and die together.
    Example: channels 1 to 8 with r = 2 make the units {1, 2, 3, 4} and {5, 6, 7, 8}.
    """
    reason = "pixels are moved between the channels and the image"
    rank = len(x.shape)
    image = (rank - 2, rank - 1)
    given = replace(x, factors=facts.keep(x.factors, image, reason))
    return facts.keep(rearrange(facts, given, factor), image, reason)


@rule(aten.expand.default, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_shape)
def expand(facts: Facts, x: Tagged, *arguments: Any, **_: Any) -> Factors:
    """``expand(x, sizes)``: a factor just gets more dimensions along which it does not vary."""
    return tuple(f.expand(facts.result_shape) for f in x.factors)


@rule(aten.expand_as.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def expand_as(facts: Facts, x: Tagged, other: Tagged) -> Factors:
    """``expand_as(x, other)``: takes the other's sizes, and so what shrinks them."""
    return facts.elementwise([x, other], facts.result_shape)


@rule(aten.view_as.default, aten.reshape_as.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def reshape_as(facts: Facts, x: Tagged, other: Tagged) -> Factors:
    """``view_as(x, other)``: what shrinks the one has to shrink the other."""
    shape = facts.result_shape
    own = Tagged(shape, moved(facts, (f.reshape(shape) for f in x.factors)))
    return facts.elementwise([own, other], shape)


def _new_shifts(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    if len(args) < 3:
        return
    x, shifts, dims = args
    sizes = [cut.shapes[x][dim] for dim in dims]
    to_the_front = [
        sum(index >= size - shift % size for index in cut.indices(x, dim))
        for shift, dim, size in zip(shifts, dims, sizes, strict=True)
    ]
    node.update_arg(1, to_the_front)


@rule(aten.roll.default, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_shifts)
def roll(facts: Facts, x: Tagged, shifts: list[int], dims: list[int] | None = None) -> Factors:
    """``roll(x, shifts, dims)``. Example: 1 2 3 rolled by one is 3 1 2."""
    if not dims:
        facts.freeze(x.factors, "a roll runs over all dimensions at once")
        return ()
    return moved(facts, (torch.roll(f, shifts, dims) for f in x.factors))
