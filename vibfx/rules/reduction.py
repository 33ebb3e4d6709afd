"""Ops that reduce or run along dimensions: sums, means, variances, norms, maxima, softmax.

A sum over channels does not see removed ones, as they are zero there. A mean or a variance over
channels is rewritten with its original denominator.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from vibfx.labels import Tagged
from vibfx.rules.cut import Cut, scaled
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, Scale, Zero, rule

aten = torch.ops.aten

_ACROSS = "a statistic is taken across it"


def reduced_dims(dims: Any, rank: int) -> list[int]:
    """The dimensions a reduction names, in order; all of them where it names none."""
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return list(range(rank))
    return sorted(d % rank for d in (dims if isinstance(dims, Sequence) else [dims]))


def _reduced(facts: Facts, x: Tagged, dims: Any, keepdim: bool) -> Factors:
    where = reduced_dims(dims, len(x.shape))
    return dropped(facts.statistics(x, where, _ACROSS), where, keepdim)


def dropped(factors: Factors, dims: Sequence[int], keepdim: bool) -> Factors:
    """Factors without dimensions along which they do not vary, which are reduced away."""
    passed = []
    for factor in factors:
        for dim in reversed(dims):
            factor = factor.narrow(dim, 0, 1) if keepdim else factor.select(dim, 0)
        passed.append(factor)
    return tuple(passed)


def _lost_share(node: fx.Node, cut: Cut, dims: Any) -> float:
    x = node.args[0]
    return cut.share(x, reduced_dims(dims, len(cut.shapes[x])))  # type: ignore[index]


def _original_mean(node: fx.Node, cut: Cut) -> None:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    scaled(node, cut, _lost_share(node, cut, dims))


@rule(aten.mean.dim, zero=Zero.FIRST, scale=Scale.LINEAR, resize=_original_mean)
@rule(aten.sum.dim_IntList, zero=Zero.FIRST, scale=Scale.LINEAR)
def reduce(
    facts: Facts, x: Tagged, dim: list[int] | None = None, keepdim: bool = False, **_: Any
) -> Factors:
    """``mean(x, dims, keepdim)`` or ``sum(x, dims, keepdim)``.

    Example: over the two last dimensions of an image, channel labels pass. Across channels, those
    that go are zero; the mean is multiplied by the share of channels that is left.
    """
    return _reduced(facts, x, dim, keepdim)


def _original_mean_of_all(node: fx.Node, cut: Cut) -> None:
    scaled(node, cut, _lost_share(node, cut, None))


@rule(aten.mean.default, resize=_original_mean_of_all)
@rule(aten.sum.default)
def reduce_all(facts: Facts, x: Tagged, **_: Any) -> Factors:
    """``mean(x)`` or ``sum(x)`` over everything."""
    return _reduced(facts, x, None, False)


def _zero_of_norm(node: fx.Node) -> Zero | None:
    return Zero.FIRST if _order(node) > 0 else None


def _order(node: fx.Node) -> float:
    args: tuple[Any, ...] = node.args
    named: dict[str, Any] = dict(node.kwargs)
    return float(args[1] if len(args) > 1 else named.get("ord", 2))


@rule(aten.linalg_vector_norm.default, zero=_zero_of_norm)
def vector_norm(
    facts: Facts,
    x: Tagged,
    order: float = 2,
    dim: list[int] | None = None,
    keepdim: bool = False,
    **_: Any,
) -> Factors:
    """``norm(x, ord, dims, keepdim)``: zeros add nothing to a norm of positive order."""
    if order <= 0:
        x = Tagged(x.shape, facts.keep(x.factors, reduced_dims(dim, len(x.shape)), _ACROSS))
    return _reduced(facts, x, dim, keepdim)


@rule(
    aten.amax.default,
    aten.amin.default,
    aten.argmax.default,
    aten.argmin.default,
    aten.prod.dim_int,
    aten.logsumexp.default,
    aten.any.dim,
    aten.all.dim,
)
def extreme(facts: Facts, x: Tagged, dim: Any = None, keepdim: bool = False, **_: Any) -> Factors:
    """``amax(x, dims, keepdim)`` and the like: labels along ``dims`` stay."""
    where = reduced_dims(dim, len(x.shape))
    kept = facts.keep(x.factors, where, "a maximum or the like is taken across it")
    return dropped(kept, where, keepdim)


@rule(aten.max.dim, aten.min.dim, aten.median.dim)
def extreme_with_index(facts: Facts, x: Tagged, dim: int, keepdim: bool = False) -> list[Factors]:
    """``max(x, dim, keepdim) -> values, indices``: labels along ``dim`` stay."""
    factors = extreme(facts, x, dim, keepdim)
    return [factors, factors]


@rule(
    aten.softmax.int,
    aten.log_softmax.int,
    aten._softmax.default,
    aten._log_softmax.default,
    aten.cumsum.default,
    aten.cumprod.default,
)
def softmax(facts: Facts, x: Tagged, dim: int, *options: Any, **_: Any) -> Factors:
    """``softmax(x[*], dim) -> [*]``: labels along ``dim`` stay, since every entry sees every other.

    Labels along other dimensions (one a head, in attention) pass.
    """
    reason = "a softmax or a running sum runs across it"
    return facts.keep(x.factors, [dim % len(x.shape)], reason)


@rule(aten.topk.default, aten.sort.default)
def ranked(facts: Facts, x: Tagged, *options: Any, **named: Any) -> list[Factors]:
    """``topk(x, k, dim)`` or ``sort(x, dim)``, each with indices: labels along ``dim`` stay."""
    given = list(options[1:] if facts.node.target is aten.topk.default else options)
    dim = (given[0] if given else named.get("dim", -1)) % len(x.shape)
    rest = facts.keep(x.factors, [dim], "a ranking runs across it")
    size = int(facts.node.meta["val"][0].shape[dim])
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    factors = tuple(f.narrow(dim, 0, 1).expand(shape) for f in rest)
    return [factors, factors]


def moments(cut: Cut, x: Any, dims: list[int], share: float) -> tuple[Any, Any, Any]:
    """Mean and variance as they were before a removal, from what is left of a tensor.

    With r the share that is left and the elements that went being zero, mean = r m where m is the
    mean of what is left, and variance = r q where q is the mean of (x - r m)^2 over what is left
    plus (1 - r) r m^2, by the definition of both.

    Args:
        cut: The removal; new nodes go to the graph's insertion point.
        x: The node.
        dims: Over which dimensions; they are kept, with size 1.
        share: r.

    Returns:
        The deviation from the mean, in the shape of ``x``; m; and the variance.
    """
    mean = cut.call(aten.mean.dim, x, dims, True)
    deviation = cut.call(aten.sub.Tensor, x, mean, alpha=share)
    spread = cut.call(aten.mean.dim, cut.call(aten.mul.Tensor, deviation, deviation), dims, True)
    square = cut.call(aten.mul.Tensor, mean, mean)
    total = cut.call(aten.add.Tensor, spread, square, alpha=(1.0 - share) * share)
    return deviation, mean, cut.call(aten.mul.Tensor, total, share)


def _variance_options(node: fx.Node) -> tuple[Any, float, bool]:
    """Dimensions, correction and keepdim, whichever overload it is."""
    args: list[Any] = list(node.args[1:])
    named: dict[str, Any] = dict(node.kwargs)
    dims = args.pop(0) if args else named.get("dim")
    if "correction" in node.target._overloadname:  # type: ignore[union-attr]
        correction: Any = named.get("correction", 1)
        correction = 1 if correction is None else correction
    else:
        correction = float(args.pop(0) if args else named.get("unbiased", True))
    return dims, correction, bool(args[0] if args else named.get("keepdim", False))


def _original_variance(node: fx.Node, cut: Cut) -> None:
    x: Any = node.args[0]
    given, correction, keepdim = _variance_options(node)
    dims = reduced_dims(given, len(cut.shapes[x]))
    share = cut.share(x, dims)
    if share == 1.0:
        return
    count = math.prod(cut.shapes[x][d] for d in dims)
    with cut.module.graph.inserting_before(node):
        _, mean, variance = moments(cut, x, dims, share)
        variance = cut.call(aten.mul.Tensor, variance, count / (count - correction))
        if "std" in str(node.target):
            variance = cut.call(aten.sqrt.default, variance)
        mean = cut.call(aten.mul.Tensor, mean, share)
        if not keepdim:
            mean, variance = (cut.call(aten.squeeze.dims, v, dims) for v in (mean, variance))
    if "mean" not in str(node.target):
        cut.drop(node, variance)
        return
    for user in list(node.users):
        cut.drop(user, variance if user.args[1] == 0 else mean)
    cut.module.graph.erase_node(node)


@rule(
    *(o for op in (aten.var, aten.std) for o in (op.dim, op.correction)),
    resize=_original_variance,
)
def variance(facts: Facts, x: Tagged, *options: Any, **named: Any) -> Factors:
    """``var(x, dims)`` or ``std(x, dims)``, with the original denominator after a removal."""
    dims, _, keepdim = _variance_options(facts.node)
    return _reduced(facts, x, dims, keepdim)


@rule(
    *(o for op in (aten.var_mean, aten.std_mean) for o in (op.dim, op.correction)),
    resize=_original_variance,
)
def variance_and_mean(facts: Facts, x: Tagged, *options: Any, **named: Any) -> list[Factors]:
    """``var_mean(x, dims)``: like ``var``, with the mean as the second result."""
    factors = variance(facts, x, *options, **named)
    return [factors, factors]
