"""Work out once what only depends on parameters: standardised and reparametrised weights."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from vibfx.graph import drop_unread, is_tensor, tensor_at
from vibfx.passes.base import Pass
from vibfx.rules.movement import MOVES

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldParameters(Pass):
    """Replace a weight that is computed from parameters by a parameter that holds its value.

    Weight standardisation, weight and spectral norm, tables made by a small network. What only
    moves a parameter or works on it element by element stays, so that ties stay ties.
    """

    name: ClassVar[str] = "fold-parameters"
    in_place: ClassVar[bool] = True

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Run the nodes that depend on parameters alone and store what others read."""
        fixed = _fixed_nodes(module)
        computed: set[fx.Node] = set()
        for node in fixed:
            mixes = node.op == "call_function" and not _keeps_elements(node)
            if mixes or not computed.isdisjoint(node.all_input_nodes):
                computed.add(node)
        values: dict[fx.Node, Any] = {}
        folded = [
            node
            for node in fixed
            if node in computed and is_tensor(node) and any(u not in fixed for u in node.users)
        ]
        for node in folded:
            _store(module, node, _value(module, node, values))
        if folded:
            module.graph.eliminate_dead_code()
            drop_unread(module)
        return bool(folded)


def _fixed_nodes(module: fx.GraphModule) -> dict[fx.Node, None]:
    """The nodes that depend on parameters and buffers alone, in order."""
    fixed: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            fixed[node] = None
        elif node.op == "call_function" and node.all_input_nodes:
            random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            if not random and all(source in fixed for source in node.all_input_nodes):
                fixed[node] = None
    return fixed


def _keeps_elements(node: fx.Node) -> bool:
    """Whether a node only moves elements, or works on each of them alone."""
    target: Any = node.target
    return target in MOVES or torch.Tag.pointwise in getattr(target, "tags", ())


def _value(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node not in values:
        if node.op == "get_attr":
            values[node] = tensor_at(module, str(node.target)).detach()
        else:
            args, kwargs = fx.map_arg(
                (node.args, node.kwargs), lambda source: _value(module, source, values)
            )
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]


def _store(module: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    """Put the value where its name says what it was: beside the parameter it is made from."""
    stem = f"folded_{node.name}"
    number = 0
    while hasattr(module, f"{stem}_{number}"):
        number += 1
    trained = value.is_floating_point()
    module.register_parameter(
        f"{stem}_{number}", nn.Parameter(value.clone().contiguous(), requires_grad=trained)
    )
    with module.graph.inserting_before(node):
        stored = module.graph.get_attr(f"{stem}_{number}")
    stored.meta = {key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta}
    node.replace_all_uses_with(stored)
