"""Switch a graph between training and evaluation: a graph does not follow ``.train()``."""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import fx

from vibfx.passes.base import Pass

aten = torch.ops.aten

# What ops call the flag.
_FLAGS = ("train", "training", "use_input_stats")

_NORMS = (aten.batch_norm.default, aten.instance_norm.default)
_MOMENTUM = 6
_RUNNING_MEAN = 3

_ATTENTION = aten.scaled_dot_product_attention.default
_DROPOUT = 4


@dataclass(frozen=True)
class SetMode(Pass):
    """Set norms, dropouts, recurrent layers and gates to training or to evaluation mode, in place.

    The dropout within a fused attention has no flag: evaluation mode ends it for good.

    Args:
        training: Which of the two.
    """

    training: bool
    name: ClassVar[str] = "set-mode"
    in_place: ClassVar[bool] = True

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Set the flags in the graph, and the modules' own for the gates."""
        modified = module.training != self.training
        module.train(self.training)
        for node in module.graph.nodes:
            if node.op != "call_function" or _has_no_statistics(node):
                continue
            modified = _set_flag(node, self.training) or modified
            if node.target is aten.batch_norm.default and node.args[_MOMENTUM] == 0.0:
                # A cumulative average (momentum None) is exported as 0: it would never move.
                node.update_arg(_MOMENTUM, 0.1)
                modified = True
            if node.target is _ATTENTION and not self.training and _drops(node):
                node.update_arg(_DROPOUT, 0.0)
                modified = True
        return modified


def _set_flag(node: fx.Node, training: bool) -> bool:
    """Tell an op whether it is in training, if it asks; whether that is new to it."""
    at = _position(node.target)
    if at is None:
        return False
    left_out = node.target._schema.arguments[len(node.args) : at + 1]  # type: ignore[union-attr]
    args = [*node.args, *(argument.default_value for argument in left_out)]
    if args[at] == training:
        return False
    node.args = (*args[:at], training, *args[at + 1 :])
    return True


@cache
def _position(target: Any) -> int | None:
    """Where the flag stands among an op's arguments."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    names = [argument.name for argument in target._schema.arguments]
    return next((at for at, name in enumerate(names) if name in _FLAGS), None)


def _has_no_statistics(node: fx.Node) -> bool:
    """Whether it is a norm that keeps none: it takes those of the batch in either mode."""
    return node.target in _NORMS and node.args[_RUNNING_MEAN] is None


def _drops(node: fx.Node) -> bool:
    return len(node.args) > _DROPOUT and bool(node.args[_DROPOUT] != 0.0)
