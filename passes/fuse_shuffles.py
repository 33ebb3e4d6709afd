"""Replace a chain of moves that permutes one dimension by one gather with a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from vibfx.graph import add_buffer, shape_of, symbolic_dims
from vibfx.labels import compress, on_dim, varying
from vibfx.passes.base import Pass
from vibfx.rules.movement import RESHAPING, SHUFFLES

aten = torch.ops.aten


@dataclass(frozen=True)
class FuseShuffles(Pass):
    """Turn a channel shuffle (view, transpose, view) into an ``index_select``.

    A table can be cut anywhere; between the views, only whole rows or columns could go.
    """

    name: ClassVar[str] = "fuse-shuffles"
    in_place: ClassVar[bool] = True

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Look at every chain that ends in a reshape, longest first."""
        fused = False
        for node in list(module.graph.nodes):
            for start, chain in _chains(node):
                if table := _as_table(start, chain):
                    _replace(module, start, node, *table)
                    fused = True
                    break
        return fused


def _chains(last: fx.Node) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """The chains of moves that end at a node, with what they start from, the longest first."""
    chain: list[fx.Node] = []
    found: list[tuple[fx.Node, list[fx.Node]]] = []
    node: Any = last
    while node.target in RESHAPING and (node is last or len(node.users) == 1):
        chain.insert(0, node)
        node = node.args[0]
        if shape_of(node) == shape_of(last) and (len(chain) > 1 or last.target in SHUFFLES):
            found.append((node, list(chain)))
    yield from reversed(found)


def _as_table(start: fx.Node, chain: list[fx.Node]) -> tuple[int, Tensor] | None:
    """The one dimension that the chain permutes, and where each of its entries comes from."""
    shape = shape_of(start)
    found = None
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        moved = on_dim(torch.arange(size), dim, shape)
        for node in chain:
            moved = _run(node, moved)
        moved = compress(moved)
        if varying(moved) != (dim,):
            return None
        line = moved.movedim(dim, 0).flatten(1)[:, 0]
        if torch.equal(line, torch.arange(size)):
            continue
        if found is not None or dim in symbolic_dims(start):
            return None
        found = dim, line.clone()
    return found


def _run(node: fx.Node, value: Tensor) -> Tensor:
    args, target = node.args, node.target
    if RESHAPING[target]:  # type: ignore[index]  # to a shape that may count examples
        return value.reshape(shape_of(node))
    result: Tensor = target(value, *args[1:], **node.kwargs)  # type: ignore[operator]
    return result


def _replace(
    module: fx.GraphModule, start: fx.Node, last: fx.Node, dim: int, table: Tensor
) -> None:
    name = add_buffer(module, "shuffle", table.to(last.meta["val"].device))
    with module.graph.inserting_before(last):
        index = module.graph.get_attr(name)
        index.meta = {"val": last.meta["val"].new_empty(table.shape, dtype=torch.int64)}
        gather = module.graph.call_function(aten.index_select.default, (start, dim, index))
    gather.meta = dict(last.meta)
    last.replace_all_uses_with(gather)
