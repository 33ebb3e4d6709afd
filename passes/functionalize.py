"""Replace ops that write to their input by the ops that return a new tensor."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from vibfx.errors import TraceError
from vibfx.graph import where
from vibfx.passes.base import Pass
from vibfx.passes.views import Writer, base_of, may_be_view, put_back, views_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Functionalize(Pass):
    """Turn ``relu_(x)`` into ``relu(x)`` and let later readers of ``x`` read the result.

    Where ``x`` is a view of a tensor that is read later (``mask[:, 2:] = 1``), the result is put
    back into that tensor (``slice_scatter``), and later readers of any view of it read the same
    view of the new one. A write to a parameter or buffer is refused, and so is one through a view
    that has no such op.
    """

    name: ClassVar[str] = "functionalize"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A freshly exported graph may hold such ops: that is what this pass is for."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Replace the ops in the order of the graph."""
        writes = [node for node in module.graph.nodes if _writes(node)]
        family: _Family | None = None
        for node in writes:
            written, target = _checked(node)
            if torch.Tag.inplace_view in node.target.tags:  # other sizes, the same memory
                _succeed(node, written, target)
                if family:
                    family.views.add(node)
                continue
            sharing = _sharing_memory(written, may_be_view)
            others = [other for other in sharing if other not in (written, node)]
            if not any(_readers_after(node, other) for other in others):
                _succeed(node, written, target)
                continue
            family = family or _Family(views_of(module))
            family.write(node, written, target)
        return bool(writes)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _checked(node: fx.Node) -> tuple[fx.Node, Any]:
    """What a node writes to, and the op that returns the result instead.

    Raises:
        TraceError: There is no such op, or what is written outlives the call.
    """
    target: Any = _functional(node)
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node) or target is None:
        raise _refusal(node, "is an op that writes to its input and has no other form")
    base = written
    while may_be_view(base) and base.all_input_nodes:
        base = base.all_input_nodes[0]
    if base.op == "get_attr":
        raise _refusal(node, f"writes to the parameter or buffer {base.target}")
    return written, target


def _succeed(node: fx.Node, written: fx.Node, target: Any) -> None:
    """Turn a write into an op of its own, whose result later nodes read."""
    later = _readers_after(node, written)
    node.target = target
    for reader in later:
        reader.replace_input_with(written, node)


def _functional(node: fx.Node) -> Any:
    """``aten.relu_.default -> aten.relu.default``, if there is one with the same arguments."""
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    found = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    return found if packet.endswith("_") and found and not found._schema.is_mutable else None


def _sharing_memory(node: fx.Node, is_view: Any) -> list[fx.Node]:
    """The tensors that may share memory with a node's: what it views, and all views of that."""
    base = node
    while is_view(base) and base.all_input_nodes:
        base = base.all_input_nodes[0]
    found = [base]
    for member in found:
        found.extend(user for user in member.users if is_view(user) and user not in found)
    return found


class _Family:
    """Writes to tensors that share memory, one write after the other.

    After each, no later node reads any of the old tensors: all that share memory with what was
    written have a successor. So the next write again finds tensors that nothing has written to.

    Attributes:
        views: The nodes that share memory with their first input.
    """

    def __init__(self, views: set[fx.Node]) -> None:
        self.views = views

    def write(self, node: fx.Node, written: fx.Node, target: Any) -> None:
        """Replace one write, and what shares its memory for all that comes later."""
        sharing = _sharing_memory(written, self.views.__contains__)
        # A view that is made later is a reader here, and comes to view the successor.
        later = {old: _readers_after(node, old) for old in sharing if old < node}
        later[node] = list(node.users)
        node.target = target
        writer = Writer(node.graph, node)
        successors = {sharing[0]: self._new_base(writer, node, written)}
        for old, readers in later.items():
            for reader in readers:
                new = self._successor(writer, written if old is node else old, successors)
                reader.replace_input_with(old, new)

    def _new_base(self, writer: Writer, node: fx.Node, written: fx.Node) -> fx.Node:
        """The base with the result in the place where it was written."""
        value, view = _result(node), written
        while view in self.views:
            base = base_of(view)
            put = put_back(writer, base, view, value)
            if put is None:
                raise _refusal(
                    node, f"writes through {view.target} to memory that is read again later"
                )
            view, value = base, put
        return value

    def _successor(
        self, writer: Writer, old: fx.Node, successors: dict[fx.Node, fx.Node]
    ) -> fx.Node:
        if old not in successors:
            base = self._successor(writer, base_of(old), successors)
            successors[old] = writer.again(old, base)
            self.views.add(successors[old])
            if successors[old].all_input_nodes[0] is not base:
                self.views.add(successors[old].all_input_nodes[0])
        return successors[old]


def _result(node: fx.Node) -> fx.Node:
    """What a write leaves there; of a copy that is all of the source, the source itself."""
    if node.target is aten.copy.default:
        source = node.args[1]
        assert isinstance(source, fx.Node)
        own, other = node.meta["val"], source.meta["val"]
        if own.dtype == other.dtype and own.shape == other.shape and own.device == other.device:
            return source
    return node


def _readers_after(node: fx.Node, written: fx.Node) -> list[fx.Node]:
    return [user for user in written.users if user > node]


def _refusal(node: fx.Node, what: str) -> TraceError:
    hint = "Write the result to a new tensor in the model's forward instead."
    return TraceError(f"{node.target} {what}", where=where(node), hint=hint)
