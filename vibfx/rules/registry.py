"""The table of op rules: what the analysis and the rewrite know about each op.

A rule says, in one place, how labels pass through an op, whether zero and scale pass through it,
and how its node follows when dimensions shrink. An op without a rule freezes what goes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from vibfx.graph import shape_of
from vibfx.rules.cut import Cut

Factors = tuple[Tensor, ...]
LabelRule = Callable[..., Any]
AnyRule = TypeVar("AnyRule", bound=LabelRule)
ResizeRule = Callable[[fx.Node, Cut], None]


class Zero(Enum):
    """Which operands must be zero at an index for the result to be zero there."""

    FIRST = "the first operand"
    EVERY = "every tensor operand"
    FULL = "the one operand that has the result's full shape"


class Scale(Enum):
    """Whether a factor on a channel passes through the op unchanged."""

    LINEAR = "any factor"
    POSITIVE = "a factor of at least zero"


ZeroRule = Zero | Callable[[fx.Node], Zero | None] | None


@dataclass(frozen=True)
class WeightAt:
    """Where a layer's input and weight stand among its arguments.

    Attributes:
        weight: The weight's position.
        x: The input's.
        reads: The dimension of the weight that reads the input's channels.
        channels: The dimension of the input where the channels are.
    """

    weight: int
    x: int = 0
    reads: int = 1
    channels: int = -1


@dataclass(frozen=True)
class OpRule:
    """What is known about one op.

    Attributes:
        labels: ``labels(facts, *args, **kwargs)`` with every tensor as a ``Tagged``; records facts
            and returns the result's factors, or a list of them for an op with several results.
        zero: Which operands carry zeros through; None where the result may be nonzero anyway. A
            function of the node where that depends on its arguments.
        scale: Which per-channel factors pass through.
        activation: Whether the op is an activation function: a gate goes behind it.
        weight_at: For layers, whose weight can take up a factor on each channel of the input.
        feature_map: Whether the result is a layer's feature map, for the metric r_N.
        creates: Whether the op labels what it makes of nothing, without any labelled operand.
        resize: Adapts a node after a removal: literal sizes, or the op itself. None where nothing
            in the node says how large its operands are.
    """

    labels: LabelRule
    zero: ZeroRule = None
    scale: Scale | None = None
    activation: bool = False
    weight_at: WeightAt | None = None
    feature_map: bool = False
    creates: bool = False
    resize: ResizeRule | None = None

    def weight_of(self, node: fx.Node) -> fx.Node | None:
        """The parameter that is the node's weight, if the node is a layer."""
        if self.weight_at is None:
            return None
        weight = node.args[self.weight_at.weight]
        is_layer = isinstance(weight, fx.Node) and weight.op == "get_attr"
        return weight if is_layer and len(shape_of(weight)) > 1 else None  # type: ignore[arg-type, return-value]

    def zero_at(self, node: fx.Node) -> Zero | None:
        """Which operands carry zeros through this node."""
        return self.zero(node) if callable(self.zero) else self.zero


# Keyed by op or, for module calls, by class.
RULES: dict[Any, OpRule] = {}
# Rules for all ops that carry a tag, such as torch.Tag.pointwise, and have no rule of their own.
TAG_RULES: dict[torch.Tag, OpRule] = {}


def rule(*targets: Any, **facts: Any) -> Callable[[AnyRule], AnyRule]:
    """Register a label rule for ops (one overload each), for a module class, or for a tag.

    Args:
        *targets: What the rule is for.
        **facts: The other fields of ``OpRule``.

    Raises:
        ValueError: An op has a rule already.
    """

    def register(labels: AnyRule) -> AnyRule:
        for target in targets:
            table: dict[Any, OpRule] = TAG_RULES if isinstance(target, torch.Tag) else RULES
            if target in table:
                raise ValueError(f"{target} has a rule already")
            table[target] = OpRule(labels, **facts)
        return labels

    return register


def rule_for(module: fx.GraphModule, node: fx.Node) -> OpRule | None:
    """The rule of a node's op, or None."""
    if node.op == "call_function":
        return RULES.get(node.target) or _by_tag(node.target)
    if node.op == "call_module":
        return RULES.get(type(module.get_submodule(str(node.target))))
    return None


def _by_tag(target: Any) -> OpRule | None:
    if not isinstance(target, torch._ops.OpOverload):
        return None
    return next((TAG_RULES[tag] for tag in target.tags if tag in TAG_RULES), None)
