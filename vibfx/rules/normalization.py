"""Norms whose statistics are taken channel by channel."""

from typing import Any

import torch

from vibfx.labels import Tagged
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten


@rule(aten.batch_norm.default)
def batch_norm(
    facts: Facts,
    x: Tagged,
    weight: Tagged | None,
    bias: Tagged | None,
    running_mean: Tagged | None,
    running_var: Tagged | None,
    *options: Any,
) -> Factors:
    """``batch_norm(x[N, C, *], weight[C], bias[C], mean[C], var[C], ...) -> [N, C, *]``.

    Example: channel labels 1 2 and weight labels 5 6 make the units {1, 5} and {2, 6}. It shifts
    zero, so a gate goes behind it.
    """
    tail = (1,) * (len(x.shape) - 2)
    vectors = [v for v in (weight, bias, running_mean, running_var) if v is not None]
    spread = [
        Tagged((*v.shape, *tail), tuple(f.reshape(*v.shape, *tail) for f in v.factors))
        for v in vectors
    ]
    return facts.elementwise([x, *spread], facts.result_shape)
