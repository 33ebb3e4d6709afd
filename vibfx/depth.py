"""When all units of a dimension go: which sets of units may, and what is left of a block then.

A block whose inner channels are all gone still adds a constant to each channel: the bias of the
layer that read them, and what the norm behind it makes of that.
"""

import heapq
from typing import Any

import numpy as np
from torch import Tensor, fx

from vibfx.gates import apply_gates
from vibfx.graph import driven_by_input
from vibfx.labels import core
from vibfx.propagation import Propagation
from vibfx.rules import rule_for
from vibfx.rules.slicing import CONCATENATIONS

Numbers = np.ndarray


class Depth:
    """Which components of a graph may go together.

    A dimension may become empty where everything that reads it either becomes empty too, is a layer
    (its bias is left), or joins it to something else, and where every output still depends on the
    model's input.

    Args:
        module: The graph.
        propagation: Its labels.
        component: For every label its component.
        stays: For every label whether it can never go.
    """

    def __init__(
        self, module: fx.GraphModule, propagation: Propagation, component: Numbers, stays: Numbers
    ) -> None:
        frozen = np.zeros(component.max() + 1, dtype=bool)
        frozen[component[stays]] = True
        self._readers = _Readers(module)
        self._sets: dict[fx.Node, _Parts] = {}
        self._named: dict[int, dict[frozenset[int], list[fx.Node]]] = {}
        known: dict[Any, frozenset[int] | None] = {}
        for node in module.graph.nodes:
            self._sets[node] = [
                [s for f in tagged.factors if (s := _set(f, component, frozen, known)) is not None]
                for tagged in propagation.tagged(node)
            ]
            for numbers in (numbers for part in self._sets[node] for numbers in part):
                self._named.setdefault(next(iter(numbers)), {}).setdefault(numbers, []).append(node)

    def inseparable(self) -> list[Numbers]:
        """Sets of components of which at least one has to stay, as arrays of their numbers.

        The smallest ones: where part of a set has to stay, the whole set needs no mention.
        """
        found: dict[int, list[frozenset[int]]] = {}
        for numbers in sorted({n for named in self._named.values() for n in named}, key=len):
            parts = (part for n in numbers for part in found.get(n, ()))
            if not any(part <= numbers for part in parts) and not self.may_go(numbers):
                found.setdefault(min(numbers), []).append(numbers)
        return [np.array(sorted(part)) for parts in found.values() for part in parts]

    def may_go(self, gone: frozenset[int]) -> bool:
        """Whether the graph stays valid without all of these components."""
        emptied = self._emptied(gone)
        cut_off = set()
        for node in emptied:
            for user in node.users:
                if user not in emptied:
                    if not self._readers.takes_nothing(user, node):
                        return False
                    cut_off.add(user)
        constant = {user for user in cut_off if self._readers.is_layer(user)}
        return not self._readers.lose_output(emptied | constant)

    def emptying(self, gone: frozenset[int]) -> Numbers:
        """Those of these components that are part of a set by which some tensor is emptied."""
        sets = {numbers for n in gone for numbers in self._named.get(n, {}) if numbers <= gone}
        return np.array(sorted(frozenset().union(*sets)), dtype=np.int64)

    def _emptied(self, gone: frozenset[int]) -> set[fx.Node]:
        """The nodes all of whose tensors lose a whole dimension with these components."""
        touched = {
            node
            for number in gone
            for numbers, nodes in self._named.get(number, {}).items()
            if numbers <= gone
            for node in nodes
        }
        return {
            node
            for node in touched
            if all(any(numbers <= gone for numbers in part) for part in self._sets[node])
        }


_Parts = list[list[frozenset[int]]]


def _set(
    factor: Tensor, component: Numbers, frozen: Numbers, known: dict[Any, frozenset[int] | None]
) -> frozenset[int] | None:
    """The components that empty a tensor along one of its factors; None if some of them stay."""
    (labels,) = core(factor)
    place = (labels.data_ptr(), labels.shape, labels.stride())  # many nodes share their labels
    if place not in known:
        numbers = component[labels.numpy()]
        content = numbers.tobytes()  # and many labels their components
        if content not in known:
            known[content] = None if frozen[numbers].any() else frozenset(numbers.ravel().tolist())
        known[place] = known[content]
    return known[place]


class _Readers:
    """What the nodes of a graph do when what they read is gone."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._live = driven_by_input(module.graph)
        self._bottlenecks = _bottlenecks(module.graph, self._live)

    def is_layer(self, node: fx.Node) -> bool:
        found = rule_for(self._module, node)
        return found is not None and found.weight_of(node) is not None

    def takes_nothing(self, user: fx.Node, gone: fx.Node) -> bool:
        """Whether there is something left of a node of which one operand is gone."""
        if self.is_layer(user):
            at = rule_for(self._module, user).weight_at  # type: ignore[union-attr]
            return gone in (user.args[at.x], user.args[at.weight])  # type: ignore[union-attr]
        if user.target is apply_gates:
            return gone is not user.args[0]
        return user.target in CONCATENATIONS

    def lose_output(self, dead: set[fx.Node]) -> bool:
        """Whether an output no longer depends on the input once these nodes are constant."""
        dead = set(dead)
        todo = list(dead)
        heapq.heapify(todo)  # nodes compare by their place in the graph
        while todo:
            node = heapq.heappop(todo)
            if node in self._bottlenecks:
                return True
            for user in node.users:
                if user.op == "output":
                    if not dead.isdisjoint(user.all_input_nodes):
                        return True
                elif user not in dead and all(
                    source in dead for source in user.all_input_nodes if source in self._live
                ):
                    dead.add(user)
                    heapq.heappush(todo, user)
        return False


def _bottlenecks(graph: fx.Graph, live: set[fx.Node]) -> set[fx.Node]:
    """The nodes that every path from the input to some output runs through: its dominators.

    Found in one pass in the order of the graph: a node's next dominator is where the chains of
    dominators of all that it reads meet.
    """
    next_up: dict[fx.Node, fx.Node | None] = {}
    height: dict[fx.Node | None, int] = {None: 0}
    for node in graph.nodes:
        if node in live and node.op != "output":
            sources = [source for source in node.all_input_nodes if source in live]
            meet = sources[0] if sources else None
            for source in sources[1:]:
                meet = _meeting(meet, source, next_up, height)
            next_up[node] = meet
            height[node] = height[meet] + 1
    (output,) = graph.find_nodes(op="output")
    found: set[fx.Node] = set()
    for result in output.all_input_nodes:
        node = result if result in live else None
        while node is not None and node not in found:
            found.add(node)
            node = next_up[node]
    return found


def _meeting(
    a: fx.Node | None,
    b: fx.Node | None,
    next_up: dict[fx.Node, fx.Node | None],
    height: dict[fx.Node | None, int],
) -> fx.Node | None:
    """The lowest common one of two chains of dominators."""
    while a is not b:
        if height[a] >= height[b]:
            a = next_up[a]  # type: ignore[index]
        else:
            b = next_up[b]  # type: ignore[index]
    return a
