"""Ops that take parts out of a tensor by constant positions, or put parts together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import Tagged, compress, on_dim, varying
from vibfx.rules.cut import Cut
from vibfx.rules.facts import Facts
from vibfx.rules.movement import moved
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


def _new_slice(node: fx.Node, cut: Cut) -> None:
    given: tuple[Any, ...] = node.args
    x, dim, start, end, step = given + (0, None, None, 1)[len(given) - 1 :]
    size = cut.shapes[x][dim]
    if cut.along(x, dim) is not None:
        _take(node, cut, dim, range(size)[slice(start, end, step)])


def _new_narrow(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    x, dim, start, length = args
    size = cut.shapes[x][dim]
    if cut.along(x, dim) is not None:
        _take(node, cut, dim, range(size)[start % size : start % size + length])


def _take(node: fx.Node, cut: Cut, dim: int, positions: Sequence[int]) -> None:
    """Take what is left of these positions: as a slice, or by a table where it has gaps now."""
    ranks = cut.ranks(node.args[0], dim)
    left = [ranks[position] for position in positions if position in ranks]
    start = left[0] if left else 0
    if left == list(range(start, start + len(left))):
        node.target = aten.slice.Tensor
        node.args = (node.args[0], dim, start, start + len(left))
    else:
        with cut.module.graph.inserting_before(node):
            table = cut.constant(node, torch.tensor(left))
        node.target = aten.index_select.default
        node.args = (node.args[0], dim, table)


@rule(aten.slice.Tensor, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_slice)
@rule(aten.narrow.default, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_narrow)
def take_range(facts: Facts, x: Tagged, *arguments: Any) -> Factors:
    """``x[start:end:step]`` along a dimension. Example: 1 2 3 4 from 1 to 3 is 2 3."""
    op: Any = facts.node.target
    return moved(facts, (op(f, *arguments) for f in x.factors))


def _new_position(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    x, dim, index = args
    node.update_arg(2, cut.ranks(x, dim)[index % cut.shapes[x][dim]])


@rule(aten.select.int, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_position)
def select(facts: Facts, x: Tagged, dim: int, index: int) -> Factors:
    """``select(x, dim, index)``: what is picked along ``dim`` stays, other labels pass."""
    return moved(facts, (f.select(dim, index) for f in x.factors))


@rule(aten.unbind.int, zero=Zero.FIRST, scale=Scale.LINEAR)
def unbind(facts: Facts, x: Tagged, dim: int = 0) -> list[Factors]:
    """``unbind(x, dim)``: one result a position; what is picked along ``dim`` stays."""
    return [moved(facts, (f.select(dim, i) for f in x.factors)) for i in range(x.shape[dim])]


def _is_empty(value: Tensor) -> bool:
    return any(isinstance(size, int) and size == 0 for size in value.shape)


def _new_sections(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    named: dict[str, Any] = dict(node.kwargs)
    dim = args[2] if len(args) > 2 else named.get("dim", 0)
    if cut.along(args[0], dim) is not None:
        # Of a part that goes whole, any of its dimensions may be noted as the empty one.
        parts = [0 if _is_empty(value) else value.shape[dim] for value in node.meta["val"]]
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (args[0], parts, dim), {}


@rule(
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.unsafe_chunk.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
    resize=_new_sections,
)
def split(facts: Facts, x: Tagged, *arguments: Any, **named: Any) -> list[Factors]:
    """``split(x, sizes, dim)``. Example: 1 2 3 4 in two chunks are 1 2 and 3 4."""
    op: Any = facts.node.target
    parts = [op(f, *arguments, **named) for f in x.factors]
    count = len(facts.node.meta["val"])
    return [moved(facts, (p[number] for p in parts)) for number in range(count)]


CONCATENATIONS = (aten.cat.default, aten.concat.default)


@rule(*CONCATENATIONS, zero=Zero.EVERY, scale=Scale.LINEAR)
def concatenate(facts: Facts, parts: list[Tagged], dim: int = 0) -> Factors:
    """``cat([x, y], dim)``.

    Example: 1 2 and 5 6 7 along the channels give 1 2 5 6 7; a part without labels gives zeros,
    which stand for what always stays. Along the other dimensions the parts are tied.
    """
    shape = facts.result_shape
    dim = dim % len(shape)
    # cat skips empty ones, of whatever rank
    parts = [part for part in parts if len(part.shape) == len(shape) and part.shape[dim]]
    along = [[f for f in part.factors if dim in varying(f)] for part in parts]
    across = [
        Tagged(
            _narrowed(part.shape, dim),
            tuple(f.narrow(dim, 0, 1) for f in part.factors if dim not in varying(f)),
        )
        for part in parts
    ]
    others = facts.elementwise(across, _narrowed(shape, dim))
    rows = []
    for layer in range(max(map(len, along), default=0)):
        pieces = [
            factors[layer] if layer < len(factors) else torch.zeros((), dtype=torch.int64)
            for factors in along
        ]
        rows.append(_joined([p.expand(q.shape) for p, q in zip(pieces, parts, strict=True)], dim))
    return (*(row.expand(shape) for row in rows), *(f.expand(shape) for f in others))


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    """Factors one behind the other, at size 1 along the dimensions where none of them varies."""
    spanned = {dim}.union(*map(varying, pieces))
    for other in set(range(pieces[0].dim())) - spanned:
        pieces = [piece.narrow(other, 0, 1) for piece in pieces]
    return compress(torch.cat(pieces, dim))


@rule(aten.stack.default, zero=Zero.EVERY, scale=Scale.LINEAR)
def stack(facts: Facts, parts: list[Tagged], dim: int = 0) -> Factors:
    """``stack([x, y], dim)``: the parts are tied. Example: 1 2 and 5 6 make {1, 5} and {2, 6}."""
    shape = facts.result_shape
    dim = dim % len(shape)
    tied = facts.elementwise(parts, (*shape[:dim], *shape[dim + 1 :]))
    return tuple(f.unsqueeze(dim).expand(shape) for f in tied)


def _narrowed(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 1, *shape[dim + 1 :])


def _new_table(node: fx.Node, cut: Cut) -> None:
    """The positions that are left, counted among what is left."""
    x, dim, table, put = _table(node)
    if table is None or cut.along(x, dim) is None:
        return
    ranks, size = cut.ranks(x, dim), cut.shapes[x][dim]
    old = cut.module.get_buffer(str(table.target)).flatten().tolist()
    new = [ranks[i % size] for i in old if i % size in ranks]
    with cut.module.graph.inserting_before(node):
        put(cut.constant(table, torch.tensor(new)))


def _table(node: fx.Node) -> tuple[Any, int, Any, Any]:
    """What is indexed, along which dimension, by which constant, and how to replace that."""
    args: tuple[Any, ...] = node.args
    if node.target is aten.index_select.default:
        return args[0], args[1], args[2], lambda new: node.update_arg(2, new)
    given = [dim for dim, index in enumerate(args[1]) if index is not None]
    if len(given) != 1:
        return args[0], given[0], None, None
    (dim,) = given
    put = [None] * len(args[1])
    return (
        args[0],
        dim,
        args[1][dim],
        lambda n: node.update_arg(1, [*put[:dim], n, *put[dim + 1 :]]),
    )


@rule(aten.index_select.default, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_table)
def index_select(facts: Facts, x: Tagged, dim: int, index: Tagged) -> Factors:
    """``index_select(x, dim, index)``. Example: 1 2 3 4 at 2 0 is 3 1.

    Where the positions are not constant, labels along ``dim`` stay. Where they have labels
    themselves, 8 and 9, the result is 8 9: positions go from the table, and ``x`` stays whole.
    """
    rank = len(x.shape)
    return _indexed(facts, x, [None] * (dim % rank) + [index])


@rule(aten.index.Tensor, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_new_table)
def index(facts: Facts, x: Tagged, indices: list[Tagged | None]) -> Factors:
    """``x[:, index]``: like ``index_select`` where one constant line of positions is given.

    Labels along dimensions that are indexed otherwise stay; others pass.
    """
    return _indexed(facts, x, indices)


_SELECTED = "features are selected from it"


def _indexed(facts: Facts, x: Tagged, indices: list[Tagged | None]) -> Factors:
    given = [dim for dim, entry in enumerate(indices) if entry is not None]
    table = indices[given[0]]
    known = len(given) == 1 and _is_line(table)
    own = table.factors if known and table is not None else ()
    reason = _SELECTED if own else "picked by positions that depend on the input"
    tables = [None if entry is None else _positions(entry) for entry in indices]
    passed = []
    for factor in x.factors:
        if (own or not known) and set(given) & set(varying(factor)):
            facts.freeze([factor], reason)
        else:
            passed.append(aten.index.Tensor(factor, tables))
    selected = (on_dim(labels, given[0], facts.result_shape) for labels in own)
    return (*moved(facts, passed), *selected)


def _is_line(index: Tagged | None) -> bool:
    value = index.value if index is not None else None
    return value is not None and value.dim() == 1 and value.dtype is torch.int64


def _positions(index: Tagged) -> Tensor:
    if index.value is not None:
        return index.value.cpu()
    return torch.zeros(index.shape, dtype=torch.int64)


def _new_padding(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    x, amounts = args[0], list(args[1])
    rank = len(cut.shapes[node])
    for position in range(0, len(amounts), 2):
        dim = rank - 1 - position // 2
        kept = cut.along(node, dim)
        if kept is not None:
            low, size = amounts[position], cut.shapes[x][dim]
            amounts[position] = int((kept < low).sum())
            amounts[position + 1] = int((kept >= low + size).sum())
    node.update_arg(1, amounts)


def _zero_if_padded_by_zero(node: fx.Node) -> Zero | None:
    args: tuple[Any, ...] = node.args
    value = args[-1] if len(args) > 2 and not isinstance(args[-1], str) else None
    return None if value else Zero.FIRST


@rule(
    aten.pad.default,
    aten.constant_pad_nd.default,
    zero=_zero_if_padded_by_zero,
    resize=_new_padding,
)
def pad(facts: Facts, x: Tagged, amounts: list[int], *options: Any) -> Factors:
    """``pad(x, amounts, mode, value)``, the last dimension first.

    Example: channels 1 2 with one more behind give 1 2 9, where 9 is a label of its own: padding
    goes with what it is added to. Along a dimension that is padded by its own values, labels stay.
    """
    shape = facts.result_shape
    mode = next((option for option in options if isinstance(option, str)), "constant")
    factors = x.factors
    for position in range(0, len(amounts), 2):
        dim = len(shape) - 1 - position // 2
        low, high = amounts[position : position + 2]
        if low == high == 0:
            continue
        if mode != "constant" or low < 0 or high < 0:
            facts.freeze([f for f in factors if dim in varying(f)], "padded by its own values")
            factors = tuple(_widened(f, dim, shape[dim]) for f in factors if dim not in varying(f))
        else:
            factors = tuple(_padded(facts, f, dim, low, high) for f in factors)
    return factors


def _padded(facts: Facts, factor: Tensor, dim: int, low: int, high: int) -> Tensor:
    if dim not in varying(factor):
        return _widened(factor, dim, factor.size(dim) + low + high)
    view = [1] * factor.dim()
    view[dim] = -1
    ends = [
        facts.fresh(count)
        .reshape(view)
        .expand(*factor.shape[:dim], count, *factor.shape[dim + 1 :])
        for count in (low, high)
    ]
    return compress(torch.cat([ends[0], factor, ends[1]], dim))


def _widened(factor: Tensor, dim: int, size: int) -> Tensor:
    shape = list(factor.shape)
    shape[dim] = size
    return factor.narrow(dim, 0, 1).expand(shape)
