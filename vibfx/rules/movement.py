"""Ops that only move data: the op itself runs on the labels, so any arrangement comes out right."""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import Tagged, compress, varying
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Sizes, Zero, rule

aten = torch.ops.aten


def _resized(literals: Any, kept: tuple[Tensor | None, ...]) -> list[Any]:
    """A list of sizes with the dimensions that shrank filled in."""
    return [_new_size(size, keep) for size, keep in zip(literals, kept, strict=True)]


def _new_size(size: Any, keep: Tensor | None) -> Any:
    """One size; a symbol that shrank counts channels as well as the batch, and becomes -1."""
    if keep is None or size == -1:
        return size
    return keep.numel() if isinstance(size, int) else -1


def _new_shape(node: fx.Node, sizes: Sizes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape = _resized(node.args[1], sizes.result)
    return (node.args[0], shape, *node.args[2:]), dict(node.kwargs)


def _new_unflatten(node: fx.Node, sizes: Sizes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: tuple[Any, ...] = node.args
    x, dim, parts = args[:3]
    at = dim % len(sizes.first_shape)
    return (x, dim, _resized(parts, sizes.result[at : at + len(parts)])), dict(node.kwargs)


@rule(
    aten.view.default,
    aten.reshape.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    literals=_new_shape,
)
def reshape(facts: Facts, x: Tagged, shape: list[int]) -> Factors:
    """``view(x, sizes)``. Example: 1 2 over [2, 3] flattened is 1 1 1 2 2 2."""
    return _moved(x, lambda f: f.reshape(facts.result_shape))


@rule(aten.flatten.using_ints, zero=Zero.FIRST, scale=Scale.LINEAR, feature_map=True)
@rule(
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
)
@rule(
    aten.unflatten.int,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    literals=_new_unflatten,
)
def rearrange(facts: Facts, x: Tagged, *arguments: Any) -> Factors:
    """Ops whose arguments name dimensions: run as they are. Example: ``permute`` of a factor."""
    op: Any = facts.node.target
    return _moved(x, lambda f: op(f, *arguments))


@rule(aten.expand.default, zero=Zero.FIRST, scale=Scale.LINEAR, literals=_new_shape)
def expand(facts: Facts, x: Tagged, *arguments: Any) -> Factors:
    """``expand(x, sizes)``: a factor just gets more dimensions along which it does not vary."""
    return tuple(f.expand(facts.result_shape) for f in x.factors)


@rule(aten.cat.default, zero=Zero.EVERY, scale=Scale.LINEAR)
def concatenate(facts: Facts, parts: list[Tagged], dim: int = 0) -> Factors:
    """``cat([x, y], dim)``.

    Example: 1 2 and 5 6 7 along the channels give 1 2 5 6 7; a part without labels gives zeros,
    which stand for what always stays. Along the other dimensions the parts are tied.
    """
    shape = facts.result_shape
    dim = dim % len(shape)
    along = [[f for f in part.factors if dim in varying(f)] for part in parts]
    across = [
        Tagged(_narrowed(part.shape, dim), tuple(_first(f, dim) for f in part.factors))
        for part in parts
    ]
    others = facts.elementwise(across, _narrowed(shape, dim))
    rows = []
    for layer in range(max(map(len, along), default=0)):
        pieces = [
            factors[layer] if layer < len(factors) else torch.zeros((), dtype=torch.int64)
            for factors in along
        ]
        rows.append(torch.cat([p.expand(q.shape) for p, q in zip(pieces, parts, strict=True)], dim))
    return (*(compress(row) for row in rows), *(f.expand(shape) for f in others))


def _first(factor: Tensor, dim: int) -> Tensor:
    """The factor without what it says along one dimension."""
    if dim in varying(factor):
        return torch.zeros((), dtype=torch.int64).expand(_narrowed(tuple(factor.shape), dim))
    return factor.narrow(dim, 0, 1)


def _narrowed(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 1, *shape[dim + 1 :])


def _moved(x: Tagged, move: Any) -> Factors:
    return tuple(compress(move(factor)) for factor in x.factors)
