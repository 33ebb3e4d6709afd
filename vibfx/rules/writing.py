"""Ops that put a part into a tensor: what a write to ``x[:, 2:]`` becomes when it is traced."""

from typing import Any

import torch
from torch import fx

from vibfx.labels import Tagged
from vibfx.rules.cut import Cut
from vibfx.rules.facts import Facts
from vibfx.rules.movement import moved
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


def _new_bounds(node: fx.Node, cut: Cut) -> None:
    given: tuple[Any, ...] = node.args
    x, part, dim, start, end, step = given + (0, None, None, 1)[len(given) - 2 :]
    if cut.along(x, dim) is not None:
        positions = range(cut.shapes[x][dim])[slice(start, end, step)]
        left = [new for old, new in cut.ranks(x, dim).items() if old in positions]
        node.args = (x, part, dim, left[0], left[-1] + 1, 1)


@rule(aten.slice_scatter.default, zero=Zero.EVERY, scale=Scale.LINEAR, resize=_new_bounds)
def put_range(
    facts: Facts,
    x: Tagged,
    part: Tagged,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Factors:
    """``x`` with ``part`` at ``start:end:step``. Example: 1 2 3 4 and 5 6 from 1 to 3: {2, 5}."""
    if step != 1:
        facts.keep(x.factors, [dim % len(x.shape)], "written to at every other position")
    own = [aten.slice.Tensor(f, dim, start, end, step) for f in x.factors]
    facts.elementwise([Tagged(part.shape, moved(facts, own)), part], part.shape)
    return x.factors


def _new_position(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    x, part, dim, index = args
    node.args = (x, part, dim, cut.ranks(x, dim)[index % cut.shapes[x][dim]])


@rule(aten.select_scatter.default, zero=Zero.EVERY, scale=Scale.LINEAR, resize=_new_position)
def put_one(facts: Facts, x: Tagged, part: Tagged, dim: int, index: int) -> Factors:
    """``x`` with ``part`` at one position of a dimension, which stays there."""
    own = [f.select(dim, index) for f in x.factors]
    facts.elementwise([Tagged(part.shape, moved(facts, own)), part], part.shape)
    return x.factors


@rule(aten.copy.default)
def copy(facts: Facts, x: Tagged, source: Tagged, *options: Any) -> Factors:
    """``source`` in the shape of ``x``: what shrinks the one has to shrink the other."""
    return facts.elementwise([x, source], x.shape)


@rule(aten.fill.Scalar, aten.fill.Tensor)
def fill(facts: Facts, x: Tagged, value: Any) -> Factors:
    """One number everywhere, in the shape of ``x``."""
    return x.factors
