"""Ops that work element by element: activations, arithmetic, casts, dropout.

Every op that PyTorch tags as pointwise is handled; those below have facts of their own.
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.graph import operands, shape_of
from vibfx.labels import Tagged
from vibfx.rules.facts import Facts
from vibfx.rules.movement import moved
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten


def zero_by_value(node: fx.Node) -> Zero | None:
    """Try it: whether the op makes zero of zeros, wherever all its operands have them.

    An operand that is broadcast is not labelled where it is repeated, so that nothing is known of
    its value there.
    """
    inputs = operands(node)
    if any(shape_of(operand) != shape_of(node) for operand in inputs):
        return None
    zeros = fx.map_arg((node.args, node.kwargs), _zero_like)
    result = node.target(*zeros[0], **zeros[1])  # type: ignore[operator]
    if not isinstance(result, Tensor) or bool(result != 0):
        return None
    return Zero.FIRST if len(inputs) == 1 else Zero.EVERY


def _zero_like(node: fx.Node) -> Any:
    value = node.meta["val"]
    return torch.zeros((), dtype=value.dtype) if isinstance(value, Tensor) else 1


@rule(torch.Tag.pointwise, zero=zero_by_value)
def pointwise(facts: Facts, *values: Any, **named: Any) -> Factors:
    """``f(a[*], b[*], ...) -> [*]`` with broadcasting.

    Example: 1 2 and 5 6 make the units {1, 5} and {2, 6}.
    """
    tensors = [v for v in (*values, *named.values()) if isinstance(v, Tagged)]
    return facts.elementwise(tensors, facts.result_shape)


@rule(
    aten.relu.default,
    aten.leaky_relu.default,
    zero=Zero.FIRST,
    scale=Scale.POSITIVE,
    activation=True,
)
@rule(
    aten.relu6.default,
    aten.hardtanh.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.silu.default,
    aten.gelu.default,
    aten.elu.default,
    aten.celu.default,
    aten.selu.default,
    aten.mish.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.log_sigmoid.default,
    aten.softplus.default,
    aten.rrelu.default,
    zero=zero_by_value,
    activation=True,
)
@rule(
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.neg.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten._to_copy.default,
    aten.lift_fresh_copy.default,
    zero=Zero.FIRST,
    scale=Scale.LINEAR,
)
@rule(aten.abs.default, zero=Zero.FIRST, scale=Scale.POSITIVE)
@rule(aten.sqrt.default, zero=Zero.FIRST)
@rule(
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
)
def unary(facts: Facts, x: Tagged, *options: Any, **more: Any) -> Factors:
    """``f(x[*]) -> [*]``: labels pass through. Example: ``relu`` of 1 2 3 carries 1 2 3."""
    return x.factors


def _zero_if_alike(node: fx.Node) -> Zero | None:
    """A number that is added is not zero, nor what is broadcast, so zeros end there."""
    inputs = operands(node)
    alike = len(inputs) == 2 and shape_of(inputs[0]) == shape_of(inputs[1])
    return Zero.EVERY if alike else None


@rule(aten.add.Tensor, aten.sub.Tensor, zero=_zero_if_alike, scale=Scale.LINEAR)
@rule(aten.mul.Tensor, zero=Zero.FULL)
@rule(aten.type_as.default, zero=Zero.FIRST, scale=Scale.LINEAR)
def arithmetic(facts: Facts, a: Any, b: Any, **options: Any) -> Factors:
    """``a[*] + alpha * b[*] -> [*]`` and the like, with broadcasting; either may be a number.

    Example: 1 2 plus 5 6 makes the units {1, 5} and {2, 6}.
    """
    return pointwise(facts, a, b)


def _zero_if_by_number(node: fx.Node) -> Zero | None:
    """A tensor to divide by may lose the same channel, and 0 / 0 is no zero."""
    by_number = not isinstance(node.args[1], fx.Node) or not shape_of(node.args[1])
    return Zero.FIRST if by_number else None


@rule(aten.div.Tensor, aten.div.Scalar, zero=_zero_if_by_number)
def divide(facts: Facts, a: Any, b: Any) -> Factors:
    """``a[*] / b[*] -> [*]`` with broadcasting; ties like a sum."""
    return pointwise(facts, a, b)


@rule(aten.prelu.default, zero=Zero.FIRST, scale=Scale.POSITIVE, activation=True)
def prelu(facts: Facts, x: Tagged, weight: Tagged) -> Factors:
    """``prelu(x[N, C, *], weight[C or 1]) -> [N, C, *]``: one slope a channel."""
    tail = (1,) * (len(x.shape) - 2)
    shape = (*weight.shape, *tail)
    slopes = Tagged(shape, tuple(f.reshape(shape) for f in weight.factors))
    return facts.elementwise([x, slopes], facts.result_shape)


@rule(aten.glu.default, zero=Zero.FIRST)
def glu(facts: Facts, x: Tagged, dim: int = -1) -> Factors:
    """``glu(x[.., 2C, ..], dim) -> [.., C, ..]``: one half gates the other.

    Example: 1 2 3 4 makes the units {1, 3} and {2, 4}.
    """
    half = x.shape[dim] // 2
    shape = facts.result_shape
    halves = [
        Tagged(shape, moved(facts, (f.narrow(dim, start, half) for f in x.factors)))
        for start in (0, half)
    ]
    return facts.elementwise(halves, shape)
