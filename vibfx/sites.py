"""Where the gates go.

A removed channel reaches the rest of the network only through ops that sum over channels. So a gate
at the *input* of every such op, one vector a component, is exact for any network. From there each
gate is hoisted back through ops that keep zeros, to where the channel is made: behind the batch
norm of a plain block, at every producer of a residual sum. Last it moves behind the activation.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx

from vibfx.graph import operands, shape_of
from vibfx.labels import core, varying
from vibfx.propagation import Propagation
from vibfx.rules import Zero, rule_for
from vibfx.scaling import absorbers


@dataclass(frozen=True)
class Site:
    """A tensor that is gated.

    Attributes:
        node: The name of the node that computes it.
        labels: The factor along which it is gated, at full shape.
    """

    node: str
    labels: Tensor

    @property
    def per_example(self) -> bool:
        """Whether dimension 0 is free of labels, as a batch is."""
        return 0 not in varying(self.labels)


def find_sites(
    module: fx.GraphModule, propagation: Propagation, component: np.ndarray, stays: np.ndarray
) -> tuple[Site, ...]:
    """Find the tensors to gate.

    Args:
        module: The graph.
        propagation: Its labels.
        component: For every label its component.
        stays: For every label whether it can never go.

    Returns:
        The sites in the order of the graph.
    """
    stops = _hoist(module, propagation, stays)
    found = {_sink(module, stop, propagation, component) for stop in stops}
    return tuple(
        Site(node.name, factor)
        for node in module.graph.nodes
        if node in found
        for tagged in propagation.tagged(node)
        for factor in tagged.factors
        if _removable(factor, stays)
    )


def _hoist(module: fx.GraphModule, propagation: Propagation, stays: np.ndarray) -> list[fx.Node]:
    """Walk back from every consumer through ops that keep zeros; where it ends are the stops."""
    todo = [node for node, labels in propagation.facts.consumers if _removable(labels, stays)]
    seen: set[fx.Node] = set()
    stops = []
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        sources = [
            source
            for source in _zero_operands(module, node)
            for tagged in propagation.tagged(source)
            if any(_removable(factor, stays) for factor in tagged.factors)
        ]
        if sources:
            todo.extend(sources)
        else:
            stops.append(node)
    return stops


def _zero_operands(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The operands that must be zero at a channel for the node to be zero there."""
    found = rule_for(module, node)
    zero = found.zero_at(node) if found else None
    if zero is None:
        return []
    inputs = operands(node)
    if zero is Zero.FIRST:
        return inputs[:1]
    if zero is Zero.FULL:
        return [operand for operand in inputs if shape_of(operand) == shape_of(node)][:1]
    return inputs


def _sink(
    module: fx.GraphModule, node: fx.Node, propagation: Propagation, component: np.ndarray
) -> fx.Node:
    """Move a gate behind the activations that follow directly.

    Not behind one that bends what is left of the gate's value so that it could never be folded
    into a weight (a SiLU in front of a sum, say).
    """
    while len(node.users) == 1:
        (user,) = node.users
        found = rule_for(module, user)
        if found is None or not found.activation or found.zero_at(user) is None:
            return node
        if found.scale is None and absorbers(module, user, propagation, component) is None:
            return node
        node = user
    return node


def _removable(labels: Tensor, stays: np.ndarray) -> bool:
    return not bool(stays[core(labels)[0].numpy()].all())
