"""Embedding tables."""

from typing import Any

import torch

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
