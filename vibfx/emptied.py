"""Take out of a graph what a removal has left empty.

A layer of whose input nothing is left adds its bias, the same everywhere; what follows works on
that constant until it meets something that depends on the model's input.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from vibfx.errors import PlanError
from vibfx.gates import apply_gates
from vibfx.graph import (
    driven_by_input,
    drop_dead_nodes,
    is_pointwise,
    is_tensor,
    operands,
    tensor_at,
    where,
)
from vibfx.rules import Cut, rule_for
from vibfx.rules.slicing import CONCATENATIONS

aten = torch.ops.aten

# Besides the pointwise ops, what can work on a constant of size 1 along space.
_UNIFORM = {
    aten.batch_norm.default,
    aten.dropout.default,
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.permute.default,
    aten.transpose.int,
}

# So can these where the dimensions that they average over are there in full.
_NORMS_OF_LAST = {aten.layer_norm.default, aten.rms_norm.default}


def is_empty(node: fx.Node, cut: Cut) -> bool:
    """Whether a removal leaves nothing of some dimension of a node."""
    parts = cut.kept.get(node, [])
    return bool(parts) and all(
        any(keep is not None and keep.numel() == 0 for keep in part) for part in parts
    )


def drop_empty(cut: Cut) -> None:
    """Replace what reads emptied nodes, so that they can be dropped.

    Args:
        cut: The removal. Every node's noted shape is the full one still.

    Raises:
        PlanError: Something needs what is empty, or an output no longer depends on the input.
    """
    graph = cut.module.graph
    before = _driven_outputs(graph)
    constants: dict[fx.Node, Tensor] = {}
    for node in list(graph.nodes):
        if is_empty(node, cut):
            continue
        gone = [source for source in node.all_input_nodes if is_empty(source, cut)]
        if gone:
            _without(node, gone, cut, constants)
        if node not in constants and not constants.keys().isdisjoint(node.all_input_nodes):
            _on_constants(node, cut, constants)
    drop_dead_nodes(cut.module)
    if any(was and not now for was, now in zip(before, _driven_outputs(graph), strict=True)):
        raise PlanError(
            "the plan leaves no way from the model's input to its output",
            hint="Keep at least one unit of a group on the way; vibfx.plan does.",
        )


def _driven_outputs(graph: fx.Graph) -> list[bool]:
    """For each of the graph's results whether it depends on an input, its sizes aside."""
    driven = driven_by_input(graph)
    (output,) = graph.find_nodes(op="output")
    return [source in driven for source in output.all_input_nodes]


def _without(
    node: fx.Node, gone: list[fx.Node], cut: Cut, constants: dict[fx.Node, Tensor]
) -> None:
    """What a node does without some of its operands."""
    found = rule_for(cut.module, node)
    if node.target in CONCATENATIONS:
        node.update_arg(0, [part for part in node.args[0] if part not in gone])  # type: ignore[union-attr]
    elif node.target is apply_gates and node.args[0] not in gone:
        left = [value for value in node.args[1] if value not in gone]  # type: ignore[union-attr]
        if left:
            node.update_arg(1, left)
        else:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    elif found and found.weight_of(node) is not None:
        constants[node] = _bias(node, found.weight_at, cut)
    else:
        raise PlanError(
            f"the plan leaves nothing of what {node.target} reads",
            where=where(node),
            hint="Keep at least one unit of the group; vibfx.plan does.",
        )


def _bias(layer: fx.Node, at: Any, cut: Cut) -> Tensor:
    """What a layer adds without any input, of the result's rank."""
    args: tuple[Any, ...] = layer.args
    rank = len(cut.shapes[layer])
    channel = at.channels % rank
    bias = args[0] if at.x == 1 else args[2] if len(args) > 2 else None
    kept = cut.along(layer, channel)
    width = cut.shapes[layer][channel] if kept is None else kept.numel()
    if bias is None:
        value = tensor_at(cut.module, args[at.weight].target).detach().new_zeros(width)
    else:
        value = tensor_at(cut.module, bias.target).detach()
    return value.reshape([-1 if dim == channel else 1 for dim in range(rank)])


def _on_constants(node: fx.Node, cut: Cut, constants: dict[fx.Node, Tensor]) -> None:
    """Work a node out if all it reads is constant; else hand it the constants it reads."""
    tensors = operands(node)
    known = all(source in constants or source.op == "get_attr" for source in tensors)
    if known and is_tensor(node) and _works_on_uniform(node, constants):
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda source: _value(source, cut, constants)
        )
        with torch.no_grad():
            constants[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return
    full = [s for s in tensors if s not in constants and cut.shapes.get(s) == cut.shapes.get(node)]
    for source in {s: None for s in tensors if s in constants}:
        stored = _stored(source, node, constants[source], cut)
        if not (is_pointwise(node) and full):
            stored = _spread(source, stored, node, cut, constants)
        node.replace_input_with(source, stored)


def _works_on_uniform(node: fx.Node, constants: dict[fx.Node, Tensor]) -> bool:
    if node.target in _NORMS_OF_LAST:
        source, sizes = node.args[:2]
        return source in constants and constants[source].shape[-len(sizes) :] == tuple(sizes)  # type: ignore[arg-type,index]
    return node.target in _UNIFORM or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _value(source: fx.Node, cut: Cut, constants: dict[fx.Node, Tensor]) -> Tensor:
    if source in constants:
        return constants[source]
    return tensor_at(cut.module, str(source.target)).detach()


def _stored(source: fx.Node, reader: fx.Node, value: Tensor, cut: Cut) -> fx.Node:
    """The constant as a parameter, which can be trained on like the bias that it was."""
    name = f"{source.name}_constant"
    if not hasattr(cut.module, name):
        cut.module.register_parameter(name, nn.Parameter(value.clone()))
    with cut.module.graph.inserting_before(reader):
        node = cut.module.graph.get_attr(name)
    node.meta["val"] = source.meta["val"].new_empty(value.shape)
    return node


def _spread(
    source: fx.Node, stored: fx.Node, reader: fx.Node, cut: Cut, constants: dict[fx.Node, Tensor]
) -> fx.Node:
    """The constant at its full size, for a reader that does not broadcast."""
    sizes: list[Any] = []
    graph = cut.module.graph
    with graph.inserting_before(reader):
        for dim, size in enumerate(source.meta["val"].shape):
            kept = cut.along(source, dim)
            if isinstance(size, int):
                sizes.append(size if kept is None else kept.numel())
            else:
                sizes.append(_counted(size, reader, cut, constants))
        spread = graph.call_function(aten.expand.default, (stored, sizes))
    cut.stand_in(spread, source)
    spread.meta["val"] = source.meta["val"]  # the full one: it is cut with the other nodes'
    return spread


def _counted(size: Any, reader: fx.Node, cut: Cut, constants: dict[fx.Node, Tensor]) -> fx.Node:
    """A node that tells a size which is only known at run time."""
    for node in cut.module.graph.nodes:
        if node is reader:
            break
        if isinstance(node.meta.get("val"), torch.SymInt) and str(node.meta["val"]) == str(size):
            return node  # type: ignore[no-any-return]
        if not is_tensor(node) or node.op == "get_attr" or node in constants or is_empty(node, cut):
            continue
        for dim, other in enumerate(node.meta["val"].shape):
            if str(other) == str(size) and cut.along(node, dim) is None:
                counted: fx.Node = cut.call(aten.sym_size.int, node, dim)
                return counted
    raise PlanError(f"nothing is left that tells the size {size}", where=where(reader))
