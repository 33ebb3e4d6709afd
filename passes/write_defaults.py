"""Write down what an op takes from its operands' type or shape when it is left out."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vibfx.graph import shape_of
from vibfx.passes.base import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class WriteDefaults(Pass):
    """Make implied arguments explicit, so that a rewrite cannot change them unseen.

    The ``eps`` of an RMS norm (implied by the precision), the scale of an attention (by the width
    of a head), the dimensions that ``squeeze`` drops (by which ones have size 1), the type of a
    bound of ``clamp`` (by the other one's).
    """

    name: ClassVar[str] = "write-defaults"
    in_place: ClassVar[bool] = True

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Fill in argument by argument."""
        modified = False
        for node in module.graph.nodes:
            if write := _WRITERS.get(node.target):
                modified = write(node) or modified
        return modified


def _eps(node: fx.Node) -> bool:
    args: tuple[Any, ...] = node.args
    if len(args) > 3 and args[3] is not None:
        return False
    eps = torch.finfo(args[0].meta["val"].dtype).eps
    node.args = (*args[:3], *[None] * (3 - len(args)), eps)
    return True


def _scale(node: fx.Node) -> bool:
    if node.kwargs.get("scale") is not None:
        return False
    query: Any = node.args[0]
    node.update_kwarg("scale", float(shape_of(query)[-1]) ** -0.5)
    return True


def _squeezed(node: fx.Node) -> bool:
    x: Any = node.args[0]
    node.target = aten.squeeze.dims
    node.args = (x, [dim for dim, size in enumerate(shape_of(x)) if size == 1])
    return True


def _bounds(node: fx.Node) -> bool:
    """PyTorch's ONNX exporter takes two bounds only where they are of one type."""
    args: tuple[Any, ...] = node.args
    bounds = args[1:3]
    if {type(bound) for bound in bounds} != {int, float}:
        return False
    node.args = (args[0], *map(float, bounds))
    return True


_WRITERS = {
    aten.clamp.default: _bounds,
    aten.rms_norm.default: _eps,
    aten.scaled_dot_product_attention.default: _scale,
    aten.squeeze.default: _squeezed,
}
