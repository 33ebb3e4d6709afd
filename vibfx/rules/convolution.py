"""Convolutions: plain, grouped, depthwise and transposed.

A grouped convolution can lose whole groups (then ``groups`` falls), or the same column of every
group (then ``groups`` stays). Which of the two leaves more units follows from its sizes.
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.graph import concrete
from vibfx.labels import Tagged, on_dim, varying
from vibfx.rules.contraction import contract
from vibfx.rules.cut import Cut
from vibfx.rules.facts import Facts, drop_trailing
from vibfx.rules.registry import Factors, WeightAt, rule

aten = torch.ops.aten

PLAIN = tuple(
    overload
    for op in (aten.conv1d, aten.conv2d, aten.conv3d)
    for overload in (op.default, op.padding)
)
TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
CONVOLUTIONS = PLAIN + TRANSPOSED

_GROUPS = 6  # where ``groups`` stands among their arguments, the transposed ones included
_GROUPS_FOLLOW_BATCH = "read by a convolution with a group for each example"
_FIXED_INPUT = "reads channels that cannot be removed, such as those of the model's input"


def removes_whole_groups(in_per_group: int, out_per_group: int, groups: int) -> bool:
    """Whether a grouped convolution loses whole groups rather than columns of every group."""
    return groups > 1 and groups >= min(in_per_group, out_per_group)


def groups_of(layer: fx.Node) -> int:
    """The number of groups of a convolution's node; 1 for any other layer."""
    if layer.target not in CONVOLUTIONS:
        return 1
    groups = _groups_argument(layer)
    return int(concrete(groups.meta["val"]) if isinstance(groups, fx.Node) else groups)


def _groups_argument(layer: fx.Node) -> Any:
    """A number, or the node of one that follows from how many examples there are."""
    args: tuple[Any, ...] = layer.args
    named: dict[str, Any] = dict(layer.kwargs)
    return args[_GROUPS] if len(args) > _GROUPS else named.get("groups", 1)


def _freeze_if_by_example(facts: Facts, x: Tagged, weight: Tagged) -> bool:
    """Where there is a group for each example, channels share a dimension with the batch."""
    if not isinstance(_groups_argument(facts.node), fx.Node):
        return False
    facts.freeze([*x.factors, *weight.factors], _GROUPS_FOLLOW_BATCH)
    return True


def _fewer_groups(node: fx.Node, cut: Cut) -> None:
    groups, kept = groups_of(node), cut.along(node.args[0], 1)
    channels_in, channels_out = cut.shapes[node.args[0]][1], cut.shapes[node][1]  # type: ignore[index]
    whole = removes_whole_groups(channels_in // groups, channels_out // groups, groups)
    if kept is not None and whole:
        left = kept.numel() * groups // channels_in
        if len(node.args) > _GROUPS:
            node.update_arg(_GROUPS, left)
        else:
            node.update_kwarg("groups", left)


@rule(*PLAIN, weight_at=WeightAt(1, channels=1), feature_map=True, resize=_fewer_groups)
def convolution(
    facts: Facts,
    x: Tagged,
    weight: Tagged,
    bias: Tagged | None = None,
    _stride: Any = 1,
    _padding: Any = 0,
    _dilation: Any = 1,
    groups: int = 1,
) -> Factors:
    """``conv(x[N, C, *], weight[O, C / groups, *kernel], bias[O]) -> [N, O, *]``.

    Example: ``x`` with channel labels 1 2 and a weight with output labels 5 6 7 and input labels
    3 4 tie 1 with 3 and 2 with 4; the result carries 5 6 7 along dimension 1.
    """
    if _freeze_if_by_example(facts, x, weight):
        return ()
    x, weight = _without_space(facts, x), _without_space(facts, weight)
    if groups == 1:
        factors = contract(facts, "nc,oc->no", x, weight, _FIXED_INPUT)
    elif removes_whole_groups(weight.shape[1], weight.shape[0] // groups, groups):
        facts.freeze(weight.along(1), _INSIDE_GROUP)
        rows = Tagged((1, weight.shape[0]), tuple(f.T[:1] for f in weight.along(0)))
        factors = _whole_groups(facts, x, rows, groups)
    else:
        _columns_read(facts, x, weight.along(1), groups, 1)
        factors = _columns_made(facts, weight.along(0), x.shape[0], groups)
    return _with_bias(facts, factors, bias)


@rule(
    *TRANSPOSED,
    weight_at=WeightAt(1, reads=0, channels=1),
    feature_map=True,
    resize=_fewer_groups,
)
def transposed_convolution(
    facts: Facts,
    x: Tagged,
    weight: Tagged,
    bias: Tagged | None = None,
    _stride: Any = 1,
    _padding: Any = 0,
    _output_padding: Any = 0,
    groups: int = 1,
    _dilation: Any = 1,
) -> Factors:
    """``conv_transpose(x[N, C, *], weight[C, O / groups, *kernel], bias[O]) -> [N, O, *]``.

    Example: ``x`` with channel labels 1 2 and a weight with input labels 3 4 along dimension 0 tie
    1 with 3 and 2 with 4.
    """
    if _freeze_if_by_example(facts, x, weight):
        return ()
    x, weight = _without_space(facts, x), _without_space(facts, weight)
    per_group = weight.shape[1]
    if groups == 1:
        factors = contract(facts, "nc,co->no", x, weight, _FIXED_INPUT)
    elif removes_whole_groups(x.shape[1] // groups, per_group, groups):
        facts.freeze(weight.along(1), _INSIDE_GROUP)
        rows = Tagged((1, x.shape[1]), tuple(f.T[:1] for f in weight.along(0)))
        inputs = _whole_groups(facts, x, rows, groups)
        group = [f.select(0, 0).reshape(groups, -1)[:, 0] for f in inputs]
        shape = (x.shape[0], groups * per_group)
        factors = tuple(on_dim(f.repeat_interleave(per_group), 1, shape) for f in group)
    else:
        _columns_read(facts, x, weight.along(0), groups, 0)
        made = [f.select(0, 0).repeat(groups) for f in weight.along(1)]
        factors = tuple(on_dim(f, 1, (x.shape[0], f.numel())) for f in made)
    return _with_bias(facts, factors, bias)


_INSIDE_GROUP = "a column inside the groups of a convolution that loses whole groups"


def _with_bias(facts: Facts, factors: Factors, bias: Tagged | None) -> Factors:
    shape = facts.result_shape
    if bias is not None:
        factors = facts.elementwise([Tagged(shape[:2], factors), bias], shape[:2])
    return tuple(f.reshape(f.shape + (1,) * (len(shape) - 2)).expand(shape) for f in factors)


def _without_space(facts: Facts, x: Tagged) -> Tagged:
    """Drop the dimensions that the kernel slides over; they keep their size."""
    space = range(2, len(x.shape))
    kept = facts.keep(x.factors, space, "a convolution slides over it")
    return Tagged(x.shape[:2], tuple(drop_trailing(f, len(space)) for f in kept), x.source)


def _channels(facts: Facts, x: Tagged) -> list[Tensor]:
    """The channel labels of a grouped convolution's input; others cannot go."""
    facts.freeze([f for f in x.factors if 0 in varying(f)], "read by a grouped convolution")
    return [f.select(0, 0) for f in x.factors if varying(f) == (1,)]


def _whole_groups(facts: Facts, x: Tagged, rows: Tagged, groups: int) -> Factors:
    """One unit a group: its input channels, its rows of the weight, one step of ``groups``.

    Args:
        facts: Where to note it.
        x: The input, ``(N, C)``.
        rows: The labels of all groups' rows of the weight, ``(1, R)``.
        groups: How many groups there are.

    Returns:
        The factors of ``(N, R)``.
    """
    inputs, weights = _channels(facts, x), [f[0].reshape(groups, -1) for f in rows.factors]
    if not inputs or not weights:
        facts.freeze([*x.factors, *weights], _FIXED_INPUT)
    for row in weights:
        facts.couple(row, 1)
        for channels in inputs:
            per_group = channels.reshape(groups, -1)
            facts.couple(per_group, 1)
            facts.pair(row[:, 0], per_group[:, 0])
    return tuple(on_dim(f.flatten(), 1, (x.shape[0], rows.shape[1])) for f in weights)


def _columns_read(
    facts: Facts, x: Tagged, columns: list[Tensor], groups: int, grouped_dim: int
) -> None:
    """One unit a column: the j-th input channel of every group.

    The weight's columns are shared by the groups (a plain convolution) or, if ``grouped_dim`` is
    0, listed group by group (a transposed one).
    """
    inputs = _channels(facts, x)
    lines = [f.select(1 - grouped_dim, 0).flatten() for f in columns]
    if not inputs or not lines:
        facts.freeze(inputs + lines, _FIXED_INPUT)
        return
    for channels in inputs:
        per_group = channels.reshape(groups, -1)
        facts.couple(per_group, 0)
        for line in lines:
            facts.pair(per_group if grouped_dim == 0 else per_group[0], line)
    for factor in x.along(1):
        facts.consume(x, factor)


def _columns_made(facts: Facts, rows: list[Tensor], batch: int, groups: int) -> Factors:
    """The k-th output channel of every group goes together."""
    for factor in rows:
        facts.couple(factor.select(1, 0).reshape(groups, -1), 0)
    return tuple(on_dim(f.select(1, 0), 1, (batch, f.shape[0])) for f in rows)
