"""Ops that fill a tensor with one number: their sizes are free to follow what they meet."""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import on_dim
from vibfx.rules.cut import Cut
from vibfx.rules.facts import Facts
from vibfx.rules.movement import resized
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten


def _new_sizes(node: fx.Node, cut: Cut) -> None:
    at = next(i for i, a in enumerate(node.args) if isinstance(a, (list, tuple)))
    node.update_arg(at, resized(node, node.args[at], cut.of(node)))


@rule(
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    resize=_new_sizes,
    creates=True,
)
def fill(facts: Facts, *arguments: Any, **named: Any) -> Factors:
    """``zeros([N, C])``. Example: two channels get two labels of their own, 9 and 10.

    Not for a dimension that is counted at run time, such as the batch, nor for whole numbers,
    which are positions as a rule.
    """
    value: Tensor = facts.node.meta["val"]
    shape = facts.result_shape
    if not value.is_floating_point():
        return ()
    own = [dim for dim, size in enumerate(value.shape) if isinstance(size, int) and size > 1]
    return tuple(on_dim(facts.fresh(shape[dim]), dim, shape) for dim in own)
