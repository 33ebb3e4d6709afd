"""Switch a graph between training and evaluation: a graph does not follow ``.train()``."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from vibfx.passes.base import Pass

aten = torch.ops.aten

# Where the flag stands among the arguments.
_FLAGS = {
    aten.batch_norm.default: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
}
_MOMENTUM = 6
_RUNNING_MEAN = 3


@dataclass(frozen=True)
class SetMode(Pass):
    """Set batch norms, dropouts and gates to training or to evaluation mode, in place.

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
            position = _FLAGS.get(node.target)
            if _has_no_statistics(node):
                continue
            if position is not None and node.args[position] != self.training:
                node.update_arg(position, self.training)
                modified = True
            if node.target is aten.batch_norm.default and node.args[_MOMENTUM] == 0.0:
                # A cumulative average (momentum None) is exported as 0: it would never move.
                node.update_arg(_MOMENTUM, 0.1)
                modified = True
        return modified


def _has_no_statistics(node: fx.Node) -> bool:
    """Whether it is a batch norm that keeps none: it takes those of the batch in either mode."""
    return node.target is aten.batch_norm.default and node.args[_RUNNING_MEAN] is None
