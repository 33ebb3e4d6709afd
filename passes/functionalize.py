"""Replace ops that write to their input by the ops that return a new tensor."""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vibfx.errors import TraceError
from vibfx.graph import where
from vibfx.passes.base import Pass


@dataclass(frozen=True)
class Functionalize(Pass):
    """Turn ``relu_(x)`` into ``relu(x)`` and let later readers of ``x`` read the result.

    Right where no other tensor that shares the memory is read afterwards. Where one is (a write to
    a view whose base is used again), the graph is refused; so is a write to a parameter or buffer.
    """

    name: ClassVar[str] = "functionalize"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A freshly exported graph may hold such ops: that is what this pass is for."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Replace the ops in the order of the graph."""
        writes = [node for node in module.graph.nodes if _writes(node)]
        for node in writes:
            _replace(node)
        return bool(writes)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _replace(node: fx.Node) -> None:
    target: Any = _functional(node)
    written = node.args[0]
    if not isinstance(written, fx.Node) or target is None:
        raise _refusal(node, "is an op that writes to its input and has no other form")
    sharing = _sharing_memory(written)
    if stored := next((other for other in sharing if other.op == "get_attr"), None):
        raise _refusal(node, f"writes to the parameter or buffer {stored.target}")
    later = _readers_after(node, written)
    if any(_readers_after(node, other) for other in sharing if other not in (written, node)):
        raise _refusal(node, "writes to memory that another tensor, read later, shares")
    node.target = target
    for reader in later:
        reader.replace_input_with(written, node)


def _functional(node: fx.Node) -> Any:
    """``aten.relu_.default -> aten.relu.default``, if there is one with the same arguments."""
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    found = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    return found if packet.endswith("_") and found and not found._schema.is_mutable else None


def _sharing_memory(node: fx.Node) -> list[fx.Node]:
    """The tensors that may share memory with a node's: what it views, and all views of that."""
    base = node
    while _makes_view(base) and base.all_input_nodes:
        base = base.all_input_nodes[0]
    found = [base]
    for member in found:
        found.extend(user for user in member.users if _makes_view(user) and user not in found)
    return found


def _makes_view(node: fx.Node) -> bool:
    """Whether the node's result shares memory with its input."""
    target = node.target
    if target is operator.getitem:  # one of several: the parts of a split share its memory
        return _makes_view(node.all_input_nodes[0])
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return any(r.alias_info and not r.alias_info.is_write for r in target._schema.returns)


def _readers_after(node: fx.Node, written: fx.Node) -> list[fx.Node]:
    nodes = list(node.graph.nodes)
    after = set(nodes[nodes.index(node) + 1 :])
    return [user for user in written.users if user in after]


def _refusal(node: fx.Node, what: str) -> TraceError:
    hint = "Write the result to a new tensor in the model's forward instead."
    return TraceError(f"{node.target} {what}", where=where(node), hint=hint)
