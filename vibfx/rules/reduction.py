"""Sums and means over dimensions."""

from typing import Any

import torch

from vibfx.labels import Tagged, varying
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


@rule(aten.mean.dim, aten.sum.dim_IntList, zero=Zero.FIRST, scale=Scale.LINEAR)
def reduce(
    facts: Facts, x: Tagged, dims: list[int] | None = None, keepdim: bool = False, **_: Any
) -> Factors:
    """``mean(x, dims, keepdim)`` or ``sum(x, dims, keepdim)``.

    Example: over the two last dimensions of an image, channel labels pass. Labels along a reduced
    dimension stay: a mean would change its denominator, and what is left of a sum across channels
    is a tensor that has none.
    """
    rank = len(x.shape)
    reduced = sorted(d % rank for d in dims) if dims else list(range(rank))
    passed = []
    for factor in x.factors:
        if set(varying(factor)) & set(reduced):
            facts.freeze([factor], "a mean or a sum runs across it")
            continue
        for dim in reversed(reduced):
            factor = factor.narrow(dim, 0, 1) if keepdim else factor.select(dim, 0)
        passed.append(factor)
    return tuple(passed)
