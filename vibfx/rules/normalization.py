"""Norms, channel by channel and across channels.

A norm across channels can lose some of them and still compute what it did: those that go are zero
at its input, and what is left is normalised with the original denominator (see ``moments``).
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import Tagged, core, varying
from vibfx.rules.cut import Cut, scaled
from vibfx.rules.facts import Facts
from vibfx.rules.reduction import moments
from vibfx.rules.registry import Factors, rule

aten = torch.ops.aten

_ACROSS = "a norm runs across it"


def _per_channel(facts: Facts, x: Tagged, vectors: tuple[Tagged | None, ...]) -> Factors:
    """``x[N, C, *]`` combined with vectors of one entry a channel."""
    channels = [core(f)[0].flatten() for f in x.factors if varying(f) == (1,)]
    single = [v.factors[0] for v in vectors if v is not None and len(v.factors) == 1]
    if len(channels) == len(x.factors) == 1 and len(single) == len(vectors):
        for vector in single:  # nearly always so, and then the general way takes five times as long
            facts.pair(channels[0], vector)
        return x.factors
    tail = (1,) * (len(x.shape) - 2)
    spread = [
        Tagged((*v.shape, *tail), tuple(f.reshape(*v.shape, *tail) for f in v.factors))
        for v in vectors
        if v is not None
    ]
    return facts.elementwise([x, *spread], facts.result_shape)


def _only_channels(facts: Facts, x: Tagged) -> Tagged:
    """The input of a norm that takes its own statistics: along them, labels stay."""
    inside = [f for f in x.factors if set(varying(f)) - {1}]
    facts.freeze(inside, _ACROSS)
    return Tagged(x.shape, tuple(f for f in x.factors if not set(varying(f)) - {1}), x.source)


@rule(aten.batch_norm.default)
def batch_norm(
    facts: Facts,
    x: Tagged,
    weight: Tagged | None,
    bias: Tagged | None,
    running_mean: Tagged | None,
    running_var: Tagged | None,
    training: bool,
    *options: Any,
) -> Factors:
    """``batch_norm(x[N, C, *], weight[C], bias[C], mean[C], var[C], ...) -> [N, C, *]``.

    Example: channel labels 1 2 and weight labels 5 6 make the units {1, 5} and {2, 6}. It shifts
    zero, so a gate goes behind it.
    """
    if training:
        x = _only_channels(facts, x)
    return _per_channel(facts, x, (weight, bias, running_mean, running_var))


@rule(aten.instance_norm.default)
def instance_norm(
    facts: Facts,
    x: Tagged,
    weight: Tagged | None,
    bias: Tagged | None,
    running_mean: Tagged | None,
    running_var: Tagged | None,
    *options: Any,
) -> Factors:
    """``instance_norm(x[N, C, *], weight[C], bias[C], ...) -> [N, C, *]``, each channel alone."""
    x = _only_channels(facts, x)
    return _per_channel(facts, x, (weight, bias, running_mean, running_var))


def _normalised(cut: Cut, x: Any, dims: list[int], share: float, eps: float) -> fx.Node:
    """``(x - mean) / sqrt(variance + eps)`` with the moments from before the removal."""
    deviation, _, variance = moments(cut, x, dims, share)
    inverse = cut.call(aten.rsqrt.default, cut.call(aten.add.Tensor, variance, eps))
    return cut.call(aten.mul.Tensor, deviation, inverse)  # type: ignore[no-any-return]


def _affine(cut: Cut, x: Any, weight: fx.Node | None, bias: fx.Node | None, tail: int) -> fx.Node:
    """``x * weight + bias``, the vectors followed by ``tail`` dimensions of size 1."""
    for target, vector in ((aten.mul.Tensor, weight), (aten.add.Tensor, bias)):
        if vector is not None:
            spread = cut.call(aten.view.default, vector, [-1] + [1] * tail) if tail else vector
            x = cut.call(target, x, spread)
    return x  # type: ignore[no-any-return]


def _exact_layer_norm(node: fx.Node, cut: Cut) -> None:
    x, shape, weight, bias, eps = _layer_norm_arguments(node)
    rank = len(cut.shapes[x])
    dims = list(range(rank - len(shape), rank))
    share = cut.share(x, dims)
    if share == 1.0:
        return
    with cut.module.graph.inserting_before(node):
        result = _affine(cut, _normalised(cut, x, dims, share, eps), weight, bias, 0)
    cut.drop(node, result)


def _layer_norm_arguments(node: fx.Node) -> tuple[Any, ...]:
    args: tuple[Any, ...] = node.args
    return (*args, *(None, None, 1e-5)[len(args) - 2 :])[:5]


@rule(aten.layer_norm.default, resize=_exact_layer_norm)
def layer_norm(
    facts: Facts,
    x: Tagged,
    shape: list[int],
    weight: Tagged | None = None,
    bias: Tagged | None = None,
    *options: Any,
) -> Factors:
    """``layer_norm(x[*, D], [D], weight[D], bias[D]) -> [*, D]``.

    Example: feature labels 1 2 and weight labels 5 6 make the units {1, 5} and {2, 6}. A gate is
    needed in front, where the statistics are taken, and behind, as the norm shifts zero.
    """
    rank = len(x.shape)
    facts.statistics(x, range(rank - len(shape), rank), _ACROSS)
    vectors = [v for v in (weight, bias) if v is not None]
    return facts.elementwise([x, *vectors], facts.result_shape)


def _exact_rms_norm(node: fx.Node, cut: Cut) -> None:
    """With r the share that is left: eps / r, and the result times r^-1/2.

    The weight takes that factor, not as a value, which training goes on with, but as a node.
    """
    args: tuple[Any, ...] = node.args
    x, shape, weight, eps = args
    rank = len(cut.shapes[x])
    share = cut.share(x, range(rank - len(shape), rank))
    if share != 1.0:
        left = [int(size) for size in x.meta["val"].shape[-len(shape) :]]
        node.args = (x, left, weight, eps / share)
        if weight is None:
            scaled(node, cut, share**-0.5)
            return
        with cut.module.graph.inserting_before(node):
            node.update_arg(2, cut.call(aten.mul.Tensor, weight, share**-0.5))


@rule(aten.rms_norm.default, resize=_exact_rms_norm)
def rms_norm(
    facts: Facts, x: Tagged, shape: list[int], weight: Tagged | None = None, *options: Any
) -> Factors:
    """``rms_norm(x[*, D], [D], weight[D]) -> [*, D]``: like ``layer_norm``, and keeps zeros."""
    return layer_norm(facts, x, shape, weight)


def _loses_whole_groups(channels: int, groups: int) -> bool:
    return groups >= channels // groups


def _exact_group_norm(node: fx.Node, cut: Cut) -> None:
    args: tuple[Any, ...] = node.args
    x, groups, weight, bias, eps = (*args, *(None, None, 1e-5)[len(args) - 2 :])[:5]
    channels = cut.shapes[x][1]
    share = cut.share(x, [1])
    if share == 1.0:
        return
    if groups > 1 and _loses_whole_groups(channels, groups):
        node.update_arg(1, round(groups * share))
        return
    rank = len(cut.shapes[x])
    with cut.module.graph.inserting_before(node):
        split = cut.call(aten.unflatten.int, x, 1, [groups, round(channels * share) // groups])
        normal = _normalised(cut, split, list(range(2, rank + 1)), share, eps)
        flat = cut.call(aten.flatten.using_ints, normal, 1, 2)
        result = _affine(cut, flat, weight, bias, rank - 2)
    cut.drop(node, result)


@rule(aten.group_norm.default, resize=_exact_group_norm)
def group_norm(
    facts: Facts,
    x: Tagged,
    groups: int,
    weight: Tagged | None = None,
    bias: Tagged | None = None,
    *options: Any,
) -> Factors:
    """``group_norm(x[N, C, *], groups, weight[C], bias[C]) -> [N, C, *]``.

    With more groups than channels in one, whole groups go; else the same column of every group.
    """
    x = _only_channels(facts, x)
    for factor in x.factors:
        lines = factor.select(0, 0)
        while lines.dim() > 1:
            lines = lines.select(-1, 0)
        grid: Tensor = lines.reshape(groups, -1)
        if groups > 1 and _loses_whole_groups(x.shape[1], groups):
            facts.couple(grid, 1)
        else:
            facts.couple(grid, 0)
            if facts.exact_norms:
                facts.consume(x, factor)
            else:
                facts.freeze([factor], _ACROSS)
    return _per_channel(facts, x, (weight, bias))
