"""Ops that work element by element: activations, arithmetic, dropout."""

from typing import Any

import torch
from torch import fx

from vibfx.graph import operands, shape_of
from vibfx.labels import Tagged
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


@rule(
    aten.relu.default,
    aten.leaky_relu.default,
    zero=Zero.FIRST,
    scale=Scale.POSITIVE,
    activation=True,
)
@rule(
    aten.relu6.default,
    aten.hardswish.default,
    aten.silu.default,
    aten.gelu.default,
    aten.elu.default,
    aten.selu.default,
    aten.mish.default,
    aten.tanh.default,
    zero=Zero.FIRST,
    activation=True,
)
@rule(aten.sigmoid.default, aten.hardsigmoid.default, aten.softplus.default, activation=True)
@rule(
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.neg.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
)
@rule(aten.abs.default, zero=Zero.FIRST, scale=Scale.POSITIVE)
@rule(aten.exp.default, aten.log.default, aten.rsqrt.default)
@rule(aten.sqrt.default, zero=Zero.FIRST)
def unary(facts: Facts, x: Tagged, *options: Any, **more: Any) -> Factors:
    """``f(x[*]) -> [*]``: labels pass through. Example: ``relu`` of 1 2 3 carries 1 2 3."""
    return x.factors


def _zero_if_in_range(node: fx.Node) -> Zero | None:
    args: tuple[Any, ...] = node.args
    low = args[1] if len(args) > 1 else -1.0
    high = args[2] if len(args) > 2 else 1.0
    return Zero.FIRST if low <= 0.0 <= high else None


@rule(aten.hardtanh.default, zero=_zero_if_in_range, activation=True)
def hardtanh(facts: Facts, x: Tagged, low: float = -1.0, high: float = 1.0) -> Factors:
    """``hardtanh(x[*], min, max) -> [*]``, ReLU6 among others; keeps zero if the range holds it."""
    return x.factors


def _zero_if_alike(node: fx.Node) -> Zero | None:
    """A number that is added is not zero, nor what is broadcast, so zeros end there."""
    inputs = operands(node)
    alike = len(inputs) == 2 and shape_of(inputs[0]) == shape_of(inputs[1])
    return Zero.EVERY if alike else None


@rule(aten.add.Tensor, aten.sub.Tensor, zero=_zero_if_alike, scale=Scale.LINEAR)
def add(facts: Facts, a: Tagged, b: Tagged | float, alpha: float = 1) -> Factors:
    """``a[*] + alpha * b[*] -> [*]`` with broadcasting.

    Example: 1 2 plus 5 6 makes the units {1, 5} and {2, 6}.
    """
    if not isinstance(b, Tagged):
        return a.factors
    return facts.elementwise([a, b], facts.result_shape)


def _zero_if_by_number(node: fx.Node) -> Zero | None:
    """A tensor to divide by may lose the same channel, and 0 / 0 is no zero."""
    return None if isinstance(node.args[1], fx.Node) else Zero.FIRST


@rule(aten.mul.Tensor, zero=Zero.FULL)
@rule(aten.div.Tensor, zero=_zero_if_by_number)
def multiply(facts: Facts, a: Tagged, b: Tagged | float) -> Factors:
    """``a[*] * b[*] -> [*]`` (or a quotient) with broadcasting; ties like a sum."""
    if not isinstance(b, Tagged):
        return a.factors
    return facts.elementwise([a, b], facts.result_shape)


@rule(aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default)
def softmax(facts: Facts, x: Tagged, dim: int, *options: Any) -> Factors:
    """``softmax(x[*], dim) -> [*]``: labels along ``dim`` stay, since every entry sees every other.

    Labels along other dimensions (one a head, in attention) pass.
    """
    facts.freeze(x.along(dim), "a softmax runs across it")
    return x.factors
