"""The gates themselves, so that a gated graph can be analysed and rewritten like any other."""

import torch
from torch import Tensor

from vibfx.gates import VIBGate, apply_gates
from vibfx.labels import ALWAYS_KEPT, Tagged, compress, core, on_dim
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule


@rule(VIBGate)
def gate_values(
    facts: Facts, mu: Tagged, log_sigma2: Tagged, x: Tagged, per_example: bool = True
) -> Factors:
    """``gate(x) -> [N or 1, units]``. Example: the labels 1 2 of ``mu`` go along dimension 1."""
    (means,), (variances,) = mu.factors, log_sigma2.factors
    facts.pair(means, variances)
    return (on_dim(means, 1, facts.result_shape),)


@rule(apply_gates, zero=Zero.FIRST, scale=Scale.LINEAR)
def gated(
    facts: Facts,
    x: Tagged,
    values: list[Tagged],
    index: Tagged | None = None,
    per_example: bool = True,
) -> Factors:
    """``apply_gates(x, values, index) -> [*]``: each gate lives and dies with what it governs.

    Example: gate labels 1 2 and channel labels 5 6 make the units {1, 5} and {2, 6}.
    """
    row = torch.cat([_row(v) for v in values] + [torch.tensor([ALWAYS_KEPT])])
    if index is None:
        governed = on_dim(row[:-1], 1, x.shape)
    else:
        picked = row[index.value.cpu()]  # type: ignore[union-attr]
        governed = compress(picked.expand(x.shape[1:] if per_example else x.shape).expand(x.shape))
    for factor in x.factors:
        a, b = core(governed, factor)
        both = (a != ALWAYS_KEPT) & (b != ALWAYS_KEPT)
        if a.shape == core(factor)[0].shape:
            facts.pair(a[both], b[both])
    return x.factors


def _row(values: Tagged) -> Tensor:
    (factor,) = values.factors
    return factor[0]
