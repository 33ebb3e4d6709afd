"""Work out once what does not depend on the input or on anything that training changes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from vibfx.graph import add_buffer
from vibfx.passes.base import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace constant subgraphs (index tables, masks, ranges) by buffers that hold their values.

    Parameters count as variable, and so do the running statistics of batch norms. What draws
    random numbers stays.
    """

    name: ClassVar[str] = "fold-constants"
    in_place: ClassVar[bool] = True

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Run the constant nodes and store the values that variable nodes read."""
        values: dict[fx.Node, Any] = {}
        buffers = {name for name, _ in module.named_buffers()}
        for node in module.graph.nodes:
            if _is_constant(buffers, node, values):
                values[node] = _value(module, node, values)
        folded = [
            node
            for node, value in values.items()
            if node.op == "call_function"
            and isinstance(value, Tensor)
            and any(user not in values for user in node.users)
        ]
        for node in folded:
            name = add_buffer(module, "constant", values[node])
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(name)
            constant.meta = {"val": node.meta["val"]}
            node.replace_all_uses_with(constant)
        return bool(folded)


def _is_constant(buffers: set[str], node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if node.op == "get_attr":
        statistics = any(user.target is aten.batch_norm.default for user in node.users)
        return node.target in buffers and not statistics
    if node.op != "call_function" or not isinstance(node.meta.get("val"), (Tensor, list, tuple)):
        return False
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not random and all(source in values for source in node.all_input_nodes)


def _value(module: fx.GraphModule, node: Any, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return module.get_buffer(str(node.target))
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)
