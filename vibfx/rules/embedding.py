"""Embedding tables."""

from typing import Any

import torch

from vibfx.graph import concrete
from vibfx.labels import Tagged, varying
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(facts: Facts, weight: Tagged, index: Tagged, *options: Any, **_: Any) -> Factors:
    """``embedding(weight[V, D], index[*]) -> [*, D]``: rows stay, features pass."""
    facts.freeze(weight.along(0), "rows of a table that the input picks from")
    shape = facts.result_shape
    return tuple(f.select(0, 0).expand(shape) for f in weight.factors if varying(f) == (1,))


@rule(aten._embedding_bag.default)
def embedding_bag(
    facts: Facts, weight: Tagged, index: Tagged, offsets: Tagged, *options: Any
) -> list[Factors]:
    """``_embedding_bag(weight[V, D], index[L], offsets[N], ...) -> [N, D]``, and three more.

    Sums, means and maxima over bags of rows, each feature by itself: rows stay, features pass. The
    other results are for training.
    """
    for option in options:
        if isinstance(option, Tagged):  # a factor for each index
            facts.freeze(option.factors, "weighs rows of a table")
    facts.freeze(weight.along(0), "rows of a table that the input picks from")
    shape = tuple(map(concrete, facts.node.meta["val"][0].shape))
    passed = tuple(f.select(0, 0).expand(shape) for f in weight.factors if varying(f) == (1,))
    return [passed, (), (), ()]
