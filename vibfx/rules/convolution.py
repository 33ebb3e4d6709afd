"""Convolutions: plain, grouped and depthwise.

A grouped convolution can lose whole groups (then ``groups`` falls), or the same column of every
group (then ``groups`` stays). Which of the two leaves more units follows from its sizes.
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.labels import Tagged, on_dim, varying
from vibfx.rules.facts import Facts, drop_trailing
from vibfx.rules.registry import Factors, Sizes, rule

aten = torch.ops.aten

CONVOLUTIONS = tuple(
    overload
    for op in (aten.conv1d, aten.conv2d, aten.conv3d)
    for overload in (op.default, op.padding)
)

_GROUPS = 6  # where ``groups`` stands among their arguments
_FIXED_INPUT = "reads channels that cannot be removed, such as those of the model's input"


def removes_whole_groups(in_per_group: int, out_per_group: int, groups: int) -> bool:
    """Whether a grouped convolution loses whole groups rather than columns of every group."""
    return groups > 1 and groups >= min(in_per_group, out_per_group)


def groups_of(layer: fx.Node) -> int:
    """The number of groups of a convolution's node; 1 for any other layer."""
    args: tuple[Any, ...] = layer.args
    return int(args[_GROUPS]) if layer.target in CONVOLUTIONS and len(args) > _GROUPS else 1


def _fewer_groups(node: fx.Node, sizes: Sizes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, groups = node.args, groups_of(node)
    channels_in, channels_out = sizes.first_shape[1], sizes.result_shape[1]
    kept = sizes.first[1]
    whole = removes_whole_groups(channels_in // groups, channels_out // groups, groups)
    if kept is None or not whole:
        return args, dict(node.kwargs)
    left = kept.numel() * groups // channels_in
    return (*args[:_GROUPS], left, *args[_GROUPS + 1 :]), dict(node.kwargs)


@rule(*CONVOLUTIONS, absorbs=True, feature_map=True, literals=_fewer_groups)
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
    x = _without_space(facts, x)
    weight = _without_space(facts, weight)
    if groups == 1:
        factors = facts.contract("nc,oc->no", x, weight, _FIXED_INPUT)
    elif removes_whole_groups(weight.shape[1], weight.shape[0] // groups, groups):
        factors = _whole_groups(facts, x, weight, groups)
    else:
        factors = _columns(facts, x, weight, groups)
    result = Tagged((x.shape[0], weight.shape[0]), factors)
    if bias is not None:
        result = Tagged(result.shape, facts.elementwise([result, bias], result.shape))
    shape = facts.result_shape
    return tuple(f.reshape(f.shape + (1,) * (len(shape) - 2)).expand(shape) for f in result.factors)


def _without_space(facts: Facts, x: Tagged) -> Tagged:
    """Drop the dimensions that the kernel slides over; labels along them cannot go."""
    flat = []
    for factor in x.factors:
        if any(dim >= 2 for dim in varying(factor)):
            facts.freeze([factor], "a convolution slides over it")
        else:
            flat.append(drop_trailing(factor, factor.dim() - 2))
    return Tagged(x.shape[:2], tuple(flat), x.source)


def _labels_along(tagged: Tagged, dim: int) -> Tensor | None:
    factors = [f for f in tagged.factors if varying(f) == (dim,)]
    return factors[0].select(1 - dim, 0) if factors else None


def _whole_groups(facts: Facts, x: Tagged, weight: Tagged, groups: int) -> Factors:
    """One unit a group: its input channels, its output channels, one step of ``groups``."""
    inputs, outputs = _labels_along(x, 1), _labels_along(weight, 0)
    columns = _labels_along(weight, 1)
    if columns is not None:
        facts.freeze(
            [columns], "a column inside the groups of a convolution that loses whole groups"
        )
    if outputs is None:
        facts.freeze(x.factors, "read by a grouped convolution whose weight has no labels")
        return ()
    if inputs is None:
        facts.freeze([outputs], _FIXED_INPUT)
        return (on_dim(outputs, 1, (x.shape[0], weight.shape[0])),)
    rows, columns_in = outputs.reshape(groups, -1), inputs.reshape(groups, -1)
    facts.couple(rows, 1)
    facts.couple(columns_in, 1)
    facts.tie(rows[:, 0], columns_in[:, 0])
    return (on_dim(outputs, 1, (x.shape[0], weight.shape[0])),)


def _columns(facts: Facts, x: Tagged, weight: Tagged, groups: int) -> Factors:
    """One unit a column: the j-th input channel of every group; likewise for the outputs."""
    inputs, outputs = _labels_along(x, 1), _labels_along(weight, 0)
    columns = _labels_along(weight, 1)
    if inputs is not None and columns is not None:
        per_group = inputs.reshape(groups, -1)
        facts.couple(per_group, 0)
        facts.tie(per_group[0], columns)
        facts.consume(x, next(f for f in x.factors if varying(f) == (1,)))
    else:
        facts.freeze([f for f in (inputs, columns) if f is not None], _FIXED_INPUT)
    if outputs is None:
        return ()
    facts.couple(outputs.reshape(groups, -1), 0)
    return (on_dim(outputs, 1, (x.shape[0], weight.shape[0])),)
