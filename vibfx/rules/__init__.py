"""Op rules by family; importing the package registers them all."""

from vibfx.rules import (
    attention,
    convolution,
    creation,
    embedding,
    gating,
    linear,
    movement,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    slicing,
    writing,
)
from vibfx.rules.cut import Cut, KeptIndices
from vibfx.rules.registry import RULES, OpRule, Scale, WeightAt, Zero, rule, rule_for

__all__ = [
    "RULES",
    "Cut",
    "KeptIndices",
    "OpRule",
    "Scale",
    "WeightAt",
    "Zero",
    "attention",
    "convolution",
    "creation",
    "embedding",
    "gating",
    "linear",
    "movement",
    "normalization",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "rule",
    "rule_for",
    "slicing",
    "writing",
]
