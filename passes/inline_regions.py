"""Inline the regions that autocast and no-grad blocks leave as calls of whole subgraphs."""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vibfx.passes.base import Pass

# Where the subgraph stands among the arguments; the region's inputs follow it.
_REGIONS: dict[Any, int] = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}


@dataclass(frozen=True)
class InlineRegions(Pass):
    """Put the nodes of every autocast and no-grad region into the graph itself.

    What the region switched is dropped: a gated graph is trained as a whole, in one precision.
    """

    name: ClassVar[str] = "inline-regions"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A freshly exported graph does not keep the rules yet."""

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Nor need it afterwards: this is the first of several clean-ups."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Inline until no region is left; regions may hold regions."""
        modified = False
        while region := next((n for n in module.graph.nodes if n.target in _REGIONS), None):
            _inline(module, region)
            modified = True
        return modified


def _inline(module: fx.GraphModule, region: Any) -> None:
    position = _REGIONS[region.target]
    holder, *inputs = region.args[position:]
    body: Any = module.get_submodule(holder.target)
    placeholders = body.graph.find_nodes(op="placeholder")
    copies: dict[fx.Node, Any] = dict(zip(placeholders, inputs, strict=True))
    with module.graph.inserting_before(region):
        for node in body.graph.nodes:
            if node.op not in ("placeholder", "output"):
                copies[node] = module.graph.node_copy(node, copies.__getitem__)
                if node.op == "get_attr":
                    copies[node].target = f"{holder.target}.{node.target}"
    (output,) = body.graph.find_nodes(op="output")
    results: Any = fx.map_arg(output.args[0], copies.__getitem__)
    for user in list(region.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
    module.graph.erase_node(region)
