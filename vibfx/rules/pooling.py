"""Pooling: channels pass, labels along the pooled dimensions stay."""

from typing import Any

import torch

from vibfx.labels import Tagged, varying
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


def _pooled_dims(facts: Facts) -> int:
    """How many trailing dimensions the op pools: the digit in its name."""
    return int(str(facts.node.target).split("d.")[0][-1])


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
def pool(facts: Facts, x: Tagged, *options: Any) -> Factors:
    """``pool(x[N, C, *]) -> [N, C, *]``. Example: channel labels 1 2 give 1 2 at the new size.

    Padding of a max pool is -inf, not zero, but a window always holds an element of the input.
    """
    shape = facts.result_shape
    pooled = range(len(shape) - _pooled_dims(facts), len(shape))
    passed = []
    for factor in x.factors:
        if set(varying(factor)) & set(pooled):
            facts.freeze([factor], "a pooling window slides over it")
            continue
        for dim in pooled:
            factor = factor.narrow(dim, 0, 1)
        passed.append(factor.expand(shape))
    return tuple(passed)
