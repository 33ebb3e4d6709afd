"""Where the gates go.

A removed channel reaches the rest of the network only through ops that sum over channels. So a gate
at the *input* of every such op, one vector a component, is exact for any network. From there each
gate is hoisted back through ops that keep zeros, to where the channel is made: behind the batch
norm of a plain block, at every producer of a residual sum. Last it moves behind the activation.
"""

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from vibfx.graph import operands, shape_of, symbolic_dims
from vibfx.labels import ALWAYS_KEPT, compress, core, varying
from vibfx.propagation import Propagation
from vibfx.rules import Zero, rule_for
from vibfx.scaling import absorbers


@dataclass(frozen=True)
class Site:
    """A tensor that is gated.

    Attributes:
        node: The name of the node that computes it.
        labels: The factor along which it is gated, at full shape.
        per_example: Whether dimension 0 lists examples, each of which draws its own noise.
    """

    node: str
    labels: Tensor
    per_example: bool = True


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
    stops = _hoist(module, propagation, component, stays)
    found: dict[fx.Node, list[Tensor]] = {}
    for stop, demanded in stops.items():
        place = _sink(module, stop, propagation, component)
        found.setdefault(place, []).extend(
            demanded if place is stop else _concerned(propagation, place, demanded, component)
        )
    variable = _after_inputs(module)
    return tuple(
        Site(node.name, factor, node in variable and 0 not in varying(factor))
        for node in module.graph.nodes
        for factor in _each_once(found.get(node, []), component)
    )


def _after_inputs(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that depend on the model's input, rather than on parameters alone."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _hoist(
    module: fx.GraphModule, propagation: Propagation, component: np.ndarray, stays: np.ndarray
) -> dict[fx.Node, list[Tensor]]:
    """Walk back from every consumer through ops that keep zeros; where it ends are the stops.

    Returns:
        For every stop the factors that have to be zero there.
    """
    todo = [
        (node, _own(propagation, node, labels, component))
        for node, labels in propagation.facts.consumers
        if _removable(labels, stays)
    ]
    demanded: dict[fx.Node, list[Tensor]] = {}
    stops: dict[fx.Node, list[Tensor]] = {}
    while todo:
        node, factors = todo.pop()
        factors = [f for f in factors if not _among(f, demanded.get(node, []))]
        if not factors:
            continue
        demanded.setdefault(node, []).extend(factors)
        sources = [
            (source, concerned)
            for source in _zero_operands(module, node)
            if (concerned := _concerned(propagation, source, factors, component))
        ]
        if sources and not any(_along_batch(source, fs) for source, fs in sources):
            todo.extend(sources)
        else:
            stops.setdefault(node, []).extend(factors)
    return stops


def _concerned(
    propagation: Propagation, node: fx.Node, factors: list[Tensor], component: np.ndarray
) -> list[Tensor]:
    """The node's factors that share units with the given ones."""
    asked = np.zeros(component.size, dtype=bool)
    for factor in factors:
        asked[component[core(factor)[0].numpy()]] = True
    asked[component[ALWAYS_KEPT]] = False
    return [
        own
        for tagged in propagation.tagged(node)
        for own in tagged.factors
        if asked[component[core(own)[0].numpy()]].any()
    ]


def _along_batch(node: fx.Node, factors: list[Tensor]) -> bool:
    """Whether labels stand along a dimension that counts examples, where nothing can be gated."""
    counted = symbolic_dims(node)
    return any(counted & set(varying(factor)) for factor in factors)


def _among(factor: Tensor, others: list[Tensor]) -> bool:
    return any(
        varying(factor) == varying(other) and torch.equal(core(factor)[0], core(other)[0])
        for other in others
    )


def _own(
    propagation: Propagation, node: fx.Node, labels: Tensor, component: np.ndarray
) -> list[Tensor]:
    """A node's own factors with the labels that a consumer sees, whatever shape it sees them in."""
    seen = core(labels)[0].flatten()
    factors = (factor for tagged in propagation.tagged(node) for factor in tagged.factors)
    alike = [own for own in factors if torch.equal(core(own)[0].flatten(), seen)]
    return alike or _concerned(propagation, node, [labels], component)


def _each_once(factors: list[Tensor], component: np.ndarray) -> list[Tensor]:
    """Of factors that govern the same elements by the same units, the first."""
    chosen: dict[tuple[Any, ...], Tensor] = {}
    for factor in factors:
        units = compress(torch.from_numpy(component[core(factor)[0].numpy()]))
        (small,) = core(units)
        chosen.setdefault((tuple(small.shape), small.numpy().tobytes()), factor)
    return list(chosen.values())


def _zero_operands(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The operands that must be zero at a channel for the node to be zero there."""
    if node.target is operator.getitem:  # one of several results: asked of the op that makes them
        if not node.meta["val"].is_floating_point():
            return []  # a position, which is not zero where the value is
        node = node.all_input_nodes[0]
    found = rule_for(module, node)
    zero = found.zero_at(node) if found else None
    if zero is None:
        return []
    inputs = operands(node)
    if zero is Zero.FIRST:
        inputs = inputs[:1]
    elif zero is Zero.FULL:
        inputs = [operand for operand in inputs if shape_of(operand) == shape_of(node)][:1]
    # Nothing is gated that holds infinities (padding of a max pool): times 0 they are no number.
    return [] if any(map(_names_infinity, inputs)) else inputs


def _names_infinity(node: fx.Node) -> bool:
    literals = pytree.tree_leaves((node.args, dict(node.kwargs)))
    return any(isinstance(value, float) and math.isinf(value) for value in literals)


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
