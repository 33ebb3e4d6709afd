"""Fused attention, taken apart into its two products and its softmax."""

import string
from typing import Any

import torch

from vibfx.labels import Tagged, compress
from vibfx.rules.contraction import contract
from vibfx.rules.facts import Facts
from vibfx.rules.reduction import softmax
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten

_FIXED = "multiplied with a tensor whose channels cannot be removed"


@rule(aten.scaled_dot_product_attention.default)
def attention(
    facts: Facts,
    query: Tagged,
    key: Tagged,
    value: Tagged,
    mask: Tagged | None = None,
    *options: Any,
    **_: Any,
) -> Factors:
    """``attention(q[.., H, L, E], k[.., H, S, E], v[.., H, S, D]) -> [.., H, L, D]``.

    Example: with head labels 1 1 2 2 on ``q``, 3 3 4 4 on ``k`` and 5 5 6 6 on ``v``, the units
    are the heads {1, 3, 5} and {2, 4, 6}. With grouped queries a unit is a key's whole group, and
    with one key head for all queries it is the same feature of every head.
    The scale is written down when a model is traced, so that a head may also get narrower.
    """
    lead = string.ascii_uppercase[: len(query.shape) - 2]
    own = lead
    if len(lead) > 1 and key.shape[-3] < query.shape[-3]:
        if key.shape[-3] == 1:
            own = lead[:-1] + "x"  # a head that all queries share, rather than one a query
        else:
            key, value = (_repeated(x, query.shape[-3]) for x in (key, value))
    shape = (*query.shape[:-1], key.shape[-2])
    scores = Tagged(
        shape, contract(facts, f"{lead}le,{own}se->{lead}ls", query, key, _FIXED), facts.node
    )
    if mask is not None:
        scores = Tagged(shape, facts.elementwise([scores, mask], shape), facts.node)
    weights = Tagged(shape, softmax(facts, scores, -1), facts.node)
    return contract(facts, f"{lead}ls,{own}sd->{lead}ld", weights, value, _FIXED)


def _repeated(x: Tagged, heads: int) -> Tagged:
    """Keys or values as every query head of their group sees them."""
    times = heads // x.shape[-3]
    shape = (*x.shape[:-3], heads, *x.shape[-2:])
    factors = tuple(compress(f.repeat_interleave(times, -3)) for f in x.factors)
    return Tagged(shape, factors, x.source)
