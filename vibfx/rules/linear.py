"""Linear layers and matrix products."""

import string

import torch

from vibfx.labels import Tagged
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten

_FIXED_INPUT = "reads features that cannot be removed, such as those of the model's input"


@rule(aten.linear.default, absorbs=True, feature_map=True)
def linear(facts: Facts, x: Tagged, weight: Tagged, bias: Tagged | None = None) -> Factors:
    """``linear(x[..., I], weight[O, I], bias[O]) -> [..., O]``.

    Example: ``x`` with feature labels 1 1 2 2 (two channels, flattened) and a weight with input
    labels 3 4 5 6 make the units {1, 3, 4} and {2, 5, 6}.
    """
    lead = string.ascii_lowercase[: len(x.shape) - 1]
    factors = facts.contract(f"{lead}y,zy->{lead}z", x, weight, _FIXED_INPUT)
    shape = (*x.shape[:-1], weight.shape[0])
    if bias is None:
        return factors
    return facts.elementwise([Tagged(shape, factors), bias], shape)


@rule(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(facts: Facts, a: Tagged, b: Tagged) -> Factors:
    """``matmul(a[..., M, K], b[..., K, N]) -> [..., M, N]``, with equal leading dimensions.

    Example: in ``scores @ values`` with one label a head on the batch dimension of both, the
    labels of the two sides are tied head by head.
    """
    if a.shape[:-2] != b.shape[:-2] or min(len(a.shape), len(b.shape)) < 2:
        reason = "a matrix product with broadcast batch dimensions"
        facts.freeze([*a.factors, *b.factors], reason)
        return ()
    lead = string.ascii_lowercase[: len(a.shape) - 2]
    reason = "multiplied with a tensor whose channels cannot be removed"
    return facts.contract(f"{lead}xy,{lead}yz->{lead}xz", a, b, reason)
