"""Where a factor on a channel can go: into the weights before it, or into those behind it."""

import heapq
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from vibfx.graph import is_pointwise, operands, shape_of
from vibfx.labels import core, varying
from vibfx.propagation import Propagation
from vibfx.rules import OpRule, Scale, Zero, rule_for

aten = torch.ops.aten

# Where the vectors stand that multiply and shift the result of a norm.
_AFFINE = {
    aten.batch_norm.default: (1, 2),
    aten.instance_norm.default: (1, 2),
    aten.layer_norm.default: (2, 3),
    aten.group_norm.default: (2, 3),
    aten.rms_norm.default: (2,),
}


@dataclass(frozen=True)
class Absorption:
    """Where a factor on a node's channels can be taken up by what reads them.

    Attributes:
        layers: The layers whose weights take it up.
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
    todo = list(node.users)
    heapq.heapify(todo)  # nodes compare by their place in the graph
    seen = set(todo)
    while todo:
        user = heapq.heappop(todo)
        if user.target is operator.getitem:  # one of several results, scaled unless a position
            if not user.meta["val"].is_floating_point():
                continue
            if scaled & _components(user, propagation, component):
                pending[user] = None
                _push(todo, seen, user)
            elif _loses_labels(user, user.all_input_nodes[0], propagation):
                return None
            continue
        inputs = operands(user)
        hits = [operand for operand in inputs if operand in pending]
        if not hits:
            continue
        found = rule_for(module, user)
        if found is None:
            return None
        if found.weight_of(user) is not None:
            if not _can_absorb(user, found, pending):
                return None
            reached.append(user)
            continue
        rest = [operand for operand in inputs if operand not in pending]
        clash = any(
            is_pointwise(user) or scaled & _components(operand, propagation, component)
            for operand in rest
        )
        if not _passes(user, found, hits, clash, positive):
            return None
        if scaled & _components(user, propagation, component):
            pending[user] = None
            _push(todo, seen, user)
        elif _loses_labels(user, hits[0], propagation):
            return None
    return Absorption(tuple(reached), tuple(pending))


def _push(todo: list[fx.Node], seen: set[fx.Node], node: fx.Node) -> None:
    """Put a node's readers on the heap, each once."""
    for reader in node.users.keys() - seen:
        heapq.heappush(todo, reader)
        seen.add(reader)


def _loses_labels(node: fx.Node, source: fx.Node, propagation: Propagation) -> bool:
    """Whether what is made of channels is summed, or down to one: no longer known from labels."""
    empty = 0 in shape_of(node)
    return not empty and _labelled_dims(node, propagation) != _labelled_dims(source, propagation)


def _labelled_dims(node: fx.Node, propagation: Propagation) -> set[int]:
    return {d for t in propagation.tagged(node) for f in t.factors for d in varying(f)}


def _can_absorb(layer: fx.Node, found: OpRule, pending: Mapping[fx.Node, None]) -> bool:
    weight = found.weight_of(layer)
    x = layer.args[found.weight_at.x]  # type: ignore[union-attr]
    return weight is not None and has_one_reader(weight) and x in pending


def _passes(user: fx.Node, found: OpRule, hits: list[fx.Node], clash: bool, positive: bool) -> bool:
    zero = found.zero_at(user)
    if zero is Zero.FULL:
        return len(hits) == 1  # a product takes the factor from one side, not from both
    if zero is None:
        return False  # what moves zero (adding a number, say) does not scale either
    if zero is Zero.FIRST and any(hit is not operands(user)[0] for hit in hits):
        return False  # of the others it may take the shape alone, or divide by them
    passing = {Scale.LINEAR, Scale.POSITIVE} if positive else {Scale.LINEAR}
    return found.scale in passing and not clash


def _components(
    node: fx.Node, propagation: Propagation, component: npt.NDArray[np.int64]
) -> set[int]:
    factors = [factor for tagged in propagation.tagged(node) for factor in tagged.factors]
    labels = [core(factor)[0].unique().numpy() for factor in factors]
    return set(component[np.concatenate(labels)].tolist()) if labels else set()


def makers(module: fx.GraphModule, node: fx.Node, *, positive: bool = True) -> list[fx.Node] | None:
    """The parameters that could take up a factor on each of a node's channels.

    Weights and biases of the layers and norms that make the channels, and bare parameters that are
    added or joined to them; all are read once, so that nothing else changes.

    Args:
        module: The graph.
        node: The node whose channels are multiplied; nothing else may read it.
        positive: Whether no factor is below zero, so that a ReLU lets them pass.

    Returns:
        The nodes of the parameters; None where the factor meets an op that does not let it pass.
    """
    if not has_one_reader(node):
        return None
    if node.op == "get_attr":
        return [node]
    found = rule_for(module, node)
    if found is None:
        return None
    if own := [_unscaled(parameter) for parameter in _own_parameters(node, found)]:
        return own if all(p.op == "get_attr" and has_one_reader(p) for p in own) else None
    if found.zero_at(node) is Zero.FULL:
        tried = (makers(module, operand, positive=positive) for operand in operands(node))
        return next((made for made in tried if made is not None), None)
    passing = {Scale.LINEAR, Scale.POSITIVE} if positive else {Scale.LINEAR}
    if found.scale not in passing or _adds_number(node):
        return None
    sources = operands(node)[:1] if found.zero_at(node) is Zero.FIRST else operands(node)
    made: list[fx.Node] = []
    for source in sources:
        more = makers(module, source, positive=positive)
        if more is None:
            return None
        made.extend(more)
    return made


def _unscaled(node: fx.Node) -> fx.Node:
    """What is multiplied by a number, as a cut leaves the weight of an RMS norm."""
    while node.target is aten.mul.Tensor and len(operands(node)) == 1 and has_one_reader(node):
        (node,) = operands(node)
    return node


def has_one_reader(node: fx.Node) -> bool:
    """Whether one op reads a node, gates aside: they read a tensor only for its batch size.

    Of a parameter all nodes count that stand for it.
    """
    alike = [node]
    if node.op == "get_attr":
        alike = [n for n in node.graph.find_nodes(op="get_attr") if n.target == node.target]
    return sum(user.op != "call_module" for n in alike for user in n.users) == 1


def _adds_number(node: fx.Node) -> bool:
    return node.target in (aten.add.Tensor, aten.sub.Tensor) and len(operands(node)) < 2


def _own_parameters(node: fx.Node, found: OpRule) -> list[fx.Node]:
    """The parameters of a layer or of a norm that are proportional to its result."""
    if node.target in _AFFINE:
        at = [position for position in _AFFINE[node.target] if position < len(node.args)]
        vectors = [node.args[position] for position in at]
        return [v for v in vectors if isinstance(v, fx.Node)] if vectors[:1] != [None] else []
    weight = found.weight_of(node)
    if weight is None:
        return [node.args[0]] if node.target is aten.embedding.default else []  # type: ignore[list-item]
    bias = [node.args[0]] if found.weight_at and found.weight_at.x == 1 else list(node.args[2:3])
    return [weight, *(b for b in bias if isinstance(b, fx.Node))]
