"""Which side of a layer a parameter's dimension is.

A weight of a convolution or linear has an output side, whose channels the layer *makes*, and an
input side, whose channels it *reads*. A table that selects features of an input makes channels. All
other parameters carry channels as they are.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import fx

from vibfx.graph import shape_of
from vibfx.propagation import SELECTIONS

Place = tuple[str, int]
Side = Literal["makes", "reads", "carries"]
Sides = Mapping[Place, tuple[Side, ...]]

OUT: tuple[Side, ...] = ("makes",)
IN: tuple[Side, ...] = ("reads",)
_KINDS = ("weight", "bias", "running_mean", "running_var")


def owner(parameter: str) -> str:
    """The layer a parameter belongs to; a bare parameter stands for itself.

    A module may hold several layers: ``attention.in_proj_bias`` belongs to ``attention.in_proj``.
    """
    for kind in _KINDS:
        layer = parameter.removesuffix(kind)
        if layer != parameter and layer[-1:] in (".", "_"):
            return layer[:-1] or parameter
    return parameter


def sides_of(module: fx.GraphModule, weights: Iterable[str]) -> Sides:
    """What the dimensions of weights do.

    Args:
        module: A graph.
        weights: Names of the weights of its convolutions and linears.

    Returns:
        For ``(weight, dim)`` whether the layer makes or reads the channels along it. Dimension 0
        of a depthwise weight does both.
    """
    known = set(weights)
    found: dict[Place, tuple[Side, ...]] = {
        (table, 0): OUT for table in module.meta.get(SELECTIONS, ())
    }
    for node in module.graph.nodes:
        weight = _weight(node, known)
        if not weight:
            continue
        out, into = (1, 0) if "transpose" in str(node.target) else (0, 1)
        found[weight, out] = OUT
        found[weight, into] = IN
        if _is_depthwise(node):
            found[weight, 0] = OUT + IN
    return found


def _weight(node: fx.Node, known: set[str]) -> str:
    """The weight that a convolution or linear reads, if it is one of these."""
    for operand in node.all_input_nodes if node.op == "call_function" else ():
        if operand.op == "get_attr" and str(operand.target) in known:
            return str(operand.target)
    return ""


def _is_depthwise(node: fx.Node) -> bool:
    image, weight = (shape_of(operand) for operand in node.all_input_nodes[:2])
    return len(weight) > 2 and len(image) > 1 and weight[1] == 1 < image[1]
