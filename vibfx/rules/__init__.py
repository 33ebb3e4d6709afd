"""Op rules by family; importing the package registers them all."""

from vibfx.rules import (
    convolution,
    gating,
    linear,
    movement,
    normalization,
    pointwise,
    pooling,
    reduction,
)
from vibfx.rules.registry import RULES, OpRule, Scale, Sizes, Zero, rule, rule_for

__all__ = [
    "RULES",
    "OpRule",
    "Scale",
    "Sizes",
    "Zero",
    "convolution",
    "gating",
    "linear",
    "movement",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "rule",
    "rule_for",
]
