"""Where a factor on a channel can go: forward through ops that let it pass, into weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.graph import operands
from vibfx.labels import core
from vibfx.propagation import Propagation
from vibfx.rules import OpRule, Scale, Zero, rule_for


@dataclass(frozen=True)
class Absorption:
    """Where a factor on a node's channels can be taken up.

    Attributes:
        layers: The convolutions and linears whose weights take it up.
        path: The nodes on the way, which are computed without the factor then.
    """

    layers: tuple[fx.Node, ...]
    path: tuple[fx.Node, ...]


def absorbers(
    module: fx.GraphModule,
    node: fx.Node,
    propagation: Propagation,
    component: npt.NDArray[np.int64],
    *,
    positive: bool = True,
) -> Absorption | None:
    """The layers whose weights could take up a factor on each of a node's channels.

    Args:
        module: The graph.
        node: The node whose channels are multiplied by one factor a component.
        propagation: The labels of the graph.
        component: For every label its component.
        positive: Whether no factor is below zero, so that a ReLU or a max pool lets them pass.

    Returns:
        All layers that the factor reaches, or None where some path meets an op that it cannot
        pass, so that the multiplication has to stay.
    """
    scaled = _components(node, propagation, component)
    pending = {node: None}  # ordered
    reached: list[fx.Node] = []
    for user in _after(module, node):
        inputs = operands(user)
        hits = [operand for operand in inputs if operand in pending]
        if not hits:
            continue
        found = rule_for(module, user)
        if found is None:
            return None
        if found.absorbs:
            if not _can_absorb(user, pending):
                return None
            reached.append(user)
            continue
        rest = [operand for operand in inputs if operand not in pending]
        clash = any(scaled & _components(operand, propagation, component) for operand in rest)
        if not _passes(user, found, hits, clash, positive):
            return None
        pending[user] = None
    return Absorption(tuple(reached), tuple(pending))


def _after(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    nodes = list(module.graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _can_absorb(layer: fx.Node, pending: Mapping[fx.Node, None]) -> bool:
    x, weight = layer.args[:2]
    own_weight = isinstance(weight, fx.Node) and weight.op == "get_attr" and len(weight.users) == 1
    return own_weight and x in pending


def _passes(user: fx.Node, found: OpRule, hits: list[fx.Node], clash: bool, positive: bool) -> bool:
    if found.zero_at(user) is Zero.FULL:
        return len(hits) == 1  # a product takes the factor from one side, not from both
    if found.zero_at(user) is None:
        return False  # what moves zero (adding a number, say) does not scale either
    passing = {Scale.LINEAR, Scale.POSITIVE} if positive else {Scale.LINEAR}
    return found.scale in passing and not clash


def _components(
    node: fx.Node, propagation: Propagation, component: npt.NDArray[np.int64]
) -> set[int]:
    factors = [factor for tagged in propagation.tagged(node) for factor in tagged.factors]
    labels = [core(factor)[0].unique().numpy() for factor in factors]
    return set(component[np.concatenate(labels)].tolist()) if labels else set()
