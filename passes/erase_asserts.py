"""Drop guards and asserts: they pin the shapes and types that a rewrite is about to change."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from vibfx.passes.base import Pass

aten = torch.ops.aten

_ASSERTS = {
    aten._assert_tensor_metadata.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
    torch._assert,
}


@dataclass(frozen=True)
class EraseAsserts(Pass):
    """Remove every guard and assert from a freshly exported graph."""

    name: ClassVar[str] = "erase-asserts"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A freshly exported graph does not keep the rules yet."""

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Nor need it afterwards: ops that write to their input are dealt with next."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Erase the nodes, and the module that holds the guards."""
        asserts = [
            node
            for node in module.graph.nodes
            if node.target in _ASSERTS or (node.op == "call_module" and node.target == "_guards_fn")
        ]
        for node in asserts:
            module.graph.erase_node(node)
        return bool(asserts)
