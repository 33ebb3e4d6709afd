"""Fused attention, taken apart into its two products and its softmax."""

import string
from typing import Any

import torch
from torch import fx

from vibfx.labels import Tagged, varying
from vibfx.rules.cut import Cut
from vibfx.rules.facts import Facts
from vibfx.rules.reduction import softmax
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten

_FIXED = "multiplied with a tensor whose channels cannot be removed"


def _original_scale(node: fx.Node, cut: Cut) -> None:
    """Write down the scale that was implied by the width of a head, before the width changes."""
    query: Any = node.args[0]
    if node.kwargs.get("scale") is None and cut.along(query, -1) is not None:
        node.update_kwarg("scale", cut.shapes[query][-1] ** -0.5)


@rule(aten.scaled_dot_product_attention.default, resize=_original_scale)
def attention(
    facts: Facts,
    query: Tagged,
    key: Tagged,
    value: Tagged,
    mask: Tagged | None = None,
    *options: Any,
    enable_gqa: bool = False,
    **_: Any,
) -> Factors:
    """``attention(q[.., H, L, E], k[.., H, S, E], v[.., H, S, D]) -> [.., H, L, D]``.

    Example: with head labels 1 1 2 2 on ``q``, 3 3 4 4 on ``k`` and 5 5 6 6 on ``v``, the units
    are the heads {1, 3, 5} and {2, 4, 6}. With grouped queries a unit is a key's whole group.
    """
    if enable_gqa:
        key, value = (_repeated(x, query.shape[-3]) for x in (key, value))
    lead = string.ascii_uppercase[: len(query.shape) - 2]
    shape = (*query.shape[:-1], key.shape[-2])
    scores = Tagged(
        shape, facts.contract(f"{lead}le,{lead}se->{lead}ls", query, key, _FIXED), facts.node
    )
    if mask is not None:
        scores = Tagged(shape, facts.elementwise([scores, mask], shape), facts.node)
    weights = Tagged(shape, softmax(facts, scores, -1), facts.node)
    return facts.contract(f"{lead}ls,{lead}sd->{lead}ld", weights, value, _FIXED)


def _repeated(x: Tagged, heads: int) -> Tagged:
    """Keys or values as every query head of their group sees them."""
    times = heads // x.shape[-3]
    shape = (*x.shape[:-3], heads, *x.shape[-2:])
    factors = tuple(
        f.repeat_interleave(times, -3) if f.dim() - 3 in varying(f) else f.expand(shape)
        if x.shape[-3] == 1 else f.narrow(-3, 0, 1).expand(shape)
        for f in x.factors
    )
    return Tagged(shape, factors, x.source)
