"""Linear layers, matrix products and einsum: everything that is a sum of products."""

import string
from typing import Any

import torch

from vibfx.labels import Tagged
from vibfx.rules.contraction import contract
from vibfx.rules.facts import Facts, drop_trailing
from vibfx.rules.registry import Factors, WeightAt, rule

aten = torch.ops.aten

_FIXED_INPUT = "reads features that cannot be removed, such as those of the model's input"
_FIXED_OPERAND = "multiplied with a tensor whose channels cannot be removed"


@rule(aten.linear.default, weight_at=WeightAt(1), feature_map=True)
def linear(facts: Facts, x: Tagged, weight: Tagged, bias: Tagged | None = None) -> Factors:
    """``linear(x[..., I], weight[O, I], bias[O]) -> [..., O]``.

    Example: ``x`` with feature labels 1 1 2 2 (two channels, flattened) and a weight with input
    labels 3 4 5 6 make the units {1, 3, 4} and {2, 5, 6}.
    """
    lead = string.ascii_lowercase[: len(x.shape) - 1]
    factors = contract(facts, f"{lead}y,zy->{lead}z", x, weight, _FIXED_INPUT)
    shape = (*x.shape[:-1], weight.shape[0])
    if bias is None:
        return factors
    return facts.elementwise([Tagged(shape, factors), bias], shape)


@rule(aten.matmul.default, aten.mm.default, weight_at=WeightAt(1, reads=0))
@rule(aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(facts: Facts, a: Tagged, b: Tagged) -> Factors:
    """``matmul(a[..., M, K], b[..., K, N]) -> [..., M, N]``, leading dimensions broadcast.

    Example: in ``scores @ values`` with one label a head on the batch dimension of both, the
    labels of the two sides are tied head by head.
    """
    return contract(facts, _equation(a.shape, b.shape), a, b, _FIXED_OPERAND)


@rule(aten.addmm.default, weight_at=WeightAt(2, x=1, reads=0))
@rule(aten.baddbmm.default, aten.addmv.default)
def add_matmul(facts: Facts, bias: Tagged, a: Tagged, b: Tagged, **_: float) -> Factors:
    """``addmm(bias[N], a[M, K], b[K, N]) -> [M, N]``: a product, and a sum with broadcasting."""
    shape = facts.result_shape
    return facts.elementwise([Tagged(shape, matmul(facts, a, b)), bias], shape)


@rule(aten.einsum.default)
def einsum(facts: Facts, equation: str, operands: list[Tagged], **_: Any) -> Factors:
    """``einsum(equation, operands)``: one product after the other, from left to right.

    Example: ``"bhqd,bhkd->bhqk"`` is the scores of an attention. A repeated letter within one
    operand (a diagonal) freezes what goes in.
    """
    inputs, result = _spelled_out(equation, operands)
    if any(len(set(letters)) < len(letters) for letters in inputs):
        facts.freeze([f for x in operands for f in x.factors], "an einsum takes a diagonal of it")
        return ()
    left, x = inputs[0], operands[0]
    for position, (letters, other) in enumerate(zip(inputs[1:], operands[1:], strict=True)):
        needed = set(result).union(*inputs[position + 2 :])
        kept = "".join(dict.fromkeys(c for c in left + letters if c in needed))
        factors = contract(facts, f"{left},{letters}->{kept}", x, other, _FIXED_OPERAND)
        sizes = dict(zip(left + letters, x.shape + other.shape, strict=True))
        left, x = kept, Tagged(tuple(sizes[c] for c in kept), factors)
    summed = [position for position, letter in enumerate(left) if letter not in result]
    rest = facts.statistics(x, summed, "a sum runs across it")
    order = [left.index(letter) for letter in result]
    return tuple(drop_trailing(f.permute(order + summed), len(summed)) for f in rest)


def _equation(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """A matrix product in letters. A dimension of size 1 that is broadcast has its own letter."""
    letters = iter(string.ascii_letters)
    row, column, inner = next(letters), next(letters), next(letters)
    own_a, own_b, result = "", "", ""
    lead_a, lead_b = a[:-2], b[:-2]
    rank = max(len(lead_a), len(lead_b))
    for position in range(-rank, 0):
        sizes = [lead[position] if -position <= len(lead) else None for lead in (lead_a, lead_b)]
        shared = next(letters)
        ones = [size == 1 and max(s or 1 for s in sizes) > 1 for size in sizes]
        own_a += "" if sizes[0] is None else next(letters) if ones[0] else shared
        own_b += "" if sizes[1] is None else next(letters) if ones[1] else shared
        result += shared
    left = own_a + (row if len(a) > 1 else "") + inner
    right = own_b + inner + (column if len(b) > 1 else "")
    return f"{left},{right}->{result}{row if len(a) > 1 else ''}{column if len(b) > 1 else ''}"


def _spelled_out(equation: str, operands: list[Tagged]) -> tuple[list[str], str]:
    """The letters of every operand and of the result, with ellipses written out."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    spans = [len(x.shape) - len(p.replace("...", "")) for p, x in zip(parts, operands, strict=True)]
    rest = "".join(free[: max(spans)])
    spelled = [
        part.replace("...", rest[len(rest) - span :] if span else "")
        for part, span in zip(parts, spans, strict=True)
    ]
    if not arrow:
        joined = inputs.replace(",", "").replace("...", "")
        result = "..." + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return spelled, result.replace("...", rest)
