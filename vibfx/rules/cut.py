"""What a removal leaves of every node, and the means to adapt a node to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from vibfx.graph import add_buffer, size_key

KeptIndices = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Cut:
    """A removal, as the rules see it that adapt the nodes of a graph to it.

    Attributes:
        module: The graph, whose parameters are cut already.
        kept: For every labelled node the kept indices of each dimension (None where nothing goes),
            once for each of its results.
        shapes: For every tensor node its full shape before the removal.
    """

    module: fx.GraphModule
    kept: dict[fx.Node, list[KeptIndices]]
    shapes: dict[fx.Node, tuple[int, ...]]
    _worked_out: dict[str, Any] = field(default_factory=dict)

    def of(self, node: Any) -> KeptIndices:
        """The kept indices of each dimension of a node's one result."""
        return self.kept[node][0] if node in self.kept else (None,) * len(self.shapes[node])

    def along(self, node: Any, dim: int) -> Tensor | None:
        """The kept indices of one dimension, None where nothing goes."""
        return self.of(node)[dim]

    def indices(self, node: Any, dim: int) -> list[int]:
        """The kept indices of one dimension, written out."""
        kept = self.along(node, dim)
        return list(range(self.shapes[node][dim])) if kept is None else kept.tolist()

    def share(self, node: Any, dims: Sequence[int]) -> float:
        """Which share of a node's elements along some dimensions is left."""
        kept = [(self.along(node, dim), self.shapes[node][dim]) for dim in dims]
        return math.prod(k.numel() / size for k, size in kept if k is not None)

    def ranks(self, node: Any, dim: int) -> dict[int, int]:
        """Where each kept index of a dimension stands afterwards."""
        return {old: new for new, old in enumerate(self.indices(node, dim))}

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """A new node at the graph's insertion point, with its shape worked out.

        The same call on values of the same shapes gives the same: working it out takes long.
        """
        node = self.module.graph.call_function(target, args, kwargs)
        values = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        key = str((target, fx.node.map_aggregate(values, _described)))
        if key not in self._worked_out:
            self._worked_out[key] = target(*values[0], **values[1])
        node.meta["val"] = self._worked_out[key]
        return node

    def constant(self, like: fx.Node, value: Tensor) -> fx.Node:
        """A new buffer at the graph's insertion point, on the device of another node's value."""
        fake = like.meta["val"]
        name = add_buffer(self.module, "constant", value.to(fake.device))
        node = self.module.graph.get_attr(name)
        node.meta["val"] = fake.new_empty(value.shape, dtype=value.dtype)
        return node

    def stand_in(self, new: fx.Node, old: fx.Node) -> None:
        """A new node that has what the old one had: its full shape, and what is left of it."""
        self.shapes[new] = self.shapes[old]
        if old in self.kept:
            self.kept[new] = self.kept[old]

    def drop(self, node: fx.Node, instead: fx.Node) -> None:
        """Take a node out of the graph; its readers read another one instead."""
        self.stand_in(instead, node)
        node.replace_all_uses_with(instead)
        self.module.graph.erase_node(node)


def scaled(node: fx.Node, cut: Cut, factor: float) -> None:
    """Multiply a node's result by a number."""
    if factor != 1.0:
        with cut.module.graph.inserting_after(node):
            product = cut.call(torch.ops.aten.mul.Tensor, node, factor)
        cut.stand_in(product, node)
        node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)


def _described(value: Any) -> Any:
    """What of an operand decides on an op's result; a tensor's printout takes long to make."""
    if isinstance(value, Tensor):
        return size_key(value.shape), value.dtype
    return size_key([value])[0] if isinstance(value, torch.SymInt) else value
