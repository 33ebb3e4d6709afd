"""The table of op rules: what the analysis and the rewrite know about each op.

A rule says, in one place, how labels pass through an op, whether zero and scale pass through it,
and which of its literal arguments depend on sizes. An op without a rule freezes what goes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, fx

Factors = tuple[Tensor, ...]
LabelRule = Callable[..., Any]
LiteralRule = Callable[[fx.Node, "Sizes"], tuple[tuple[Any, ...], dict[str, Any]]]


class Zero(Enum):
    """Which operands must be zero at an index for the result to be zero there."""

    FIRST = "the first operand"
    EVERY = "every tensor operand"
    FULL = "the one operand that has the result's full shape"


class Scale(Enum):
    """Whether a factor on a channel passes through the op unchanged."""

    LINEAR = "any factor"
    POSITIVE = "a factor of at least zero"


@dataclass(frozen=True)
class Sizes:
    """Sizes after a removal, for rewriting literal arguments.

    Attributes:
        result: Kept indices of each dimension of the result (None where nothing goes); for several
            results, one such tuple each.
        first: The same for the op's first operand.
        result_shape: The result's full shape before the removal.
        first_shape: The first operand's.
    """

    result: tuple[Any, ...]
    first: tuple[Tensor | None, ...]
    result_shape: tuple[int, ...]
    first_shape: tuple[int, ...]


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
        absorbs: Whether a factor on the first operand can be multiplied into the second, a weight.
        feature_map: Whether the result is a layer's feature map, for the metric r_N.
        literals: Rewrites literal arguments after a removal; None where no argument is a size.
    """

    labels: LabelRule
    zero: Zero | Callable[[fx.Node], Zero | None] | None = None
    scale: Scale | None = None
    activation: bool = False
    absorbs: bool = False
    feature_map: bool = False
    literals: LiteralRule | None = None

    def zero_at(self, node: fx.Node) -> Zero | None:
        """Which operands carry zeros through this node."""
        return self.zero(node) if callable(self.zero) else self.zero


# Keyed by op or, for module calls, by class.
RULES: dict[Any, OpRule] = {}


def rule(*targets: Any, **facts: Any) -> Callable[[LabelRule], LabelRule]:
    """Register a label rule for ops (or for a module class).

    Args:
        *targets: The ops, one overload each.
        **facts: The other fields of ``OpRule``.

    Raises:
        ValueError: An op has a rule already.
    """

    def register(labels: LabelRule) -> LabelRule:
        for target in targets:
            if target in RULES:
                raise ValueError(f"{target} has a rule already")
            RULES[target] = OpRule(labels, **facts)
        return labels

    return register


def rule_for(module: fx.GraphModule, node: fx.Node) -> OpRule | None:
    """The rule of a node's op, or None."""
    if node.op == "call_function":
        return RULES.get(node.target)
    if node.op == "call_module":
        return RULES.get(type(module.get_submodule(str(node.target))))
    return None
