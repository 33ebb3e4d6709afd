"""What has to change in a module: which tensors are cut, and which attributes follow."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from vibfx.applying.layers import attributes
from vibfx.errors import PlanError
from vibfx.graph import concrete, module_path, shape_of
from vibfx.planning import PruningPlan

Place = tuple[str, str]
"""A module's dotted path, and the name of an attribute of it."""

Calls = Mapping[nn.Module, list[fx.Node]]
"""The nodes that the ``forward`` of each module makes itself, in the order of the graph."""


@dataclass(frozen=True)
class Narrowing:
    """Changes to a module and to any copy of it.

    Attributes:
        plan: Which indices of which parameter stay.
        values: New values of attributes.
    """

    plan: PruningPlan
    values: Mapping[Place, Any]

    def apply(self, module: nn.Module) -> None:
        """Make them, in place: parameters stay the objects that they are.

        So hooks on them, ties between them and an optimizer's references hold. Everything is made
        before anything is changed.
        """
        tensors = [(tensor_of(module, name), dims) for name, dims in self.plan.parameters.items()]
        cut = [(tensor, _cut(tensor, dims), _cut_grad(tensor, dims)) for tensor, dims in tensors]
        for tensor, value, gradient in cut:
            tensor.grad = None
            tensor.data = value
            tensor.grad = gradient
        set_values(module, self.values)


def set_values(module: nn.Module, values: Mapping[Place, Any]) -> None:
    """Set attributes of a module and of those within it."""
    for (path, attribute), value in values.items():
        setattr(module.get_submodule(path), attribute, value)


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this dotted name.

    Raises:
        PlanError: There is none.
    """
    path, _, attribute = name.rpartition(".")
    try:
        found = getattr(module.get_submodule(path), attribute)
    except AttributeError:
        found = None
    if not isinstance(found, Tensor):
        raise PlanError(
            "the plan cuts a tensor that the module does not hold",
            where=name,
            hint="The traced graph worked it out from others. Cut the graph instead, with "
            "PruneChannels.",
        )
    return found


def _cut(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    value = tensor.detach()
    for dim, kept in dims.items():
        index = torch.tensor(sorted(kept), dtype=torch.int64, device=value.device)
        value = value.index_select(dim, index)
    return value


def _cut_grad(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor | None:
    return None if tensor.grad is None else _cut(tensor.grad, dims)


def calls_of(module: nn.Module, graph: fx.GraphModule) -> Calls:
    """Which nodes each module makes itself, those of the modules within it left out."""
    known = dict(module.named_modules(remove_duplicate=False))
    found: dict[nn.Module, list[fx.Node]] = defaultdict(list)
    for node in graph.graph.nodes:
        path = module_path(node).partition("@")[0]  # a second call is numbered so
        if node.op == "call_function" and path in known:
            found[known[path]].append(node)
    return found


def of_layers(module: nn.Module, cut: fx.GraphModule) -> dict[Place, Any]:
    """The new attributes of layers.

    Args:
        module: A module whose tensors are cut.
        cut: The graph, cut by the same plan.
    """
    calls = calls_of(module, cut)
    return {
        (path, name): value
        for path, layer in module.named_modules()
        for name, value in attributes(layer, calls.get(layer, [])).items()
    }


def of_own_numbers(
    module: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule
) -> Iterator[dict[Place, Any]]:
    """What attributes of the user's own modules might become, the surest first.

    A module whose ``forward`` reshapes to ``self.num_heads`` says that number once in an attribute
    and once in the graph, where it changed from 6 to 3. So attributes of 6 become 3 there. That is
    a guess, to be checked by running the module: first by the numbers that stand in the graph as
    arguments, then by all sizes of what the module works on.

    Args:
        module: The module as it was.
        graph: Its graph as it was.
        cut: The graph, cut.
    """
    nodes = {node.name: node for node in cut.graph.nodes}
    calls = calls_of(module, graph)
    found: dict[Place, Any] = {}
    for numbers in (_arguments, _sizes):
        for path, owner in module.named_modules():
            changed = _changed(calls.get(owner, []), nodes, numbers)
            for name, value in vars(owner).items():
                if type(value) is int and len(changed.get(value, ())) == 1:
                    found.setdefault((path, name), *changed[value])
        if found:
            yield dict(found)


def _changed(nodes: list[fx.Node], after: Mapping[str, fx.Node], numbers: Any) -> dict[int, Any]:
    """The numbers of nodes that changed, each with what became of it, here or there."""
    found: dict[int, set[int]] = defaultdict(set)
    for node in nodes:
        if node.name not in after:
            continue
        before, now = numbers(node), numbers(after[node.name])
        if len(before) == len(now):
            for old, new in zip(before, now, strict=True):
                if old != new:
                    found[old].add(new)
    return found


def resized(graph: fx.GraphModule, cut: fx.GraphModule) -> Iterator[fx.Node]:
    """The nodes of a graph in which a cut changed a number."""
    nodes = {node.name: node for node in cut.graph.nodes}
    for node in graph.graph.nodes:
        if node.name in nodes and _arguments(node) != _arguments(nodes[node.name]):
            yield node


def _arguments(node: fx.Node) -> list[Any]:
    """The whole numbers among a node's arguments."""
    found: list[Any] = []
    fx.node.map_aggregate((node.args, node.kwargs), lambda a: found.append(a))
    return [value for value in found if type(value) is int]


def _sizes(node: fx.Node) -> list[Any]:
    """The sizes of all that a node reads and of what it makes."""
    return [concrete(size) for other in (*node.all_input_nodes, node) for size in shape_of(other)]
