"""What the rest needs to know of a ``torch.fx`` graph: its tensors, shapes, origins and rules."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from vibfx.errors import GraphError
from vibfx.gates import VIBGate, apply_gates
from vibfx.silence import silenced

PYTHON_TARGETS: set[Callable[..., Any]] = {
    apply_gates,
    operator.getitem,
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not),
}
"""What may stand in a graph beside ATen ops: results of several parts, and arithmetic on sizes."""


def concrete(value: Any) -> Any:
    """A size as a plain number: a symbolic one stands for the value it was traced with."""
    return value.node.hint if isinstance(value, (torch.SymInt, torch.SymFloat)) else value


def size_key(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """Sizes as a key to look something up by: a symbolic one is its formula.

    Printing or comparing symbolic sizes takes a hundred times as long.
    """
    return tuple([size if isinstance(size, int) else size.node.expr for size in sizes])


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The node's shape at the traced batch size; empty for what is no tensor."""
    value = node.meta.get("val")
    return tuple([concrete(size) for size in value.shape]) if isinstance(value, Tensor) else ()


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor."""
    return isinstance(node.meta.get("val"), Tensor)


def symbolic_dims(node: fx.Node) -> set[int]:
    """The dimensions of a node's value whose size depends on how many examples there are."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return set()
    return {dim for dim, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}


def empty_like(value: Tensor, sizes: Sequence[Any]) -> Tensor:
    """What ``value.new_empty(sizes)`` gives, for the values of nodes in a fraction of the time."""
    if not isinstance(value, FakeTensor):
        return value.new_empty(sizes)
    content = torch.empty(sizes, dtype=value.dtype, device="meta")
    return FakeTensor(value.fake_mode, content, value.device)


def tensor_at(module: fx.GraphModule, name: str) -> Tensor:
    """The parameter or buffer with this dotted name."""
    owner, attribute = owner_of(module, name)
    value = owner._parameters.get(attribute)  # found without the walk of Module.__getattr__
    if value is None:
        value = getattr(owner, attribute)
    if not isinstance(value, Tensor):
        raise GraphError(f"{name} is a {type(value).__name__}, not a tensor")
    return value


def owner_of(module: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    """The module that holds an attribute of this dotted name, and the attribute's own name."""
    *path, attribute = name.split(".")
    owner: nn.Module = module
    for part in path:
        owner = owner._modules.get(part) or owner.get_submodule(part)
    return owner, attribute


def digest(module: fx.GraphModule) -> str:
    """A fingerprint of what a graph computes: its code and the content of its tensors."""
    found = hashlib.sha256(module.code.encode())
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def set_tensor(module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Put ``value`` where the parameter or buffer ``name`` is, as the same kind of thing."""
    owner, attribute = owner_of(module, name)
    old = owner._parameters.get(attribute)
    if old is None:
        setattr(owner, attribute, value)
    else:  # setattr would look for the name in a dozen places first
        owner._parameters[attribute] = nn.Parameter(value, requires_grad=old.requires_grad)


def add_buffer(module: fx.GraphModule, stem: str, value: Tensor) -> str:
    """Register ``value`` as a buffer named after ``stem`` and return the name it got."""
    taken = {name for name, _ in module.named_children()} | set(module._buffers)
    number = 0
    while f"{stem}_{number}" in taken:
        number += 1
    name = f"{stem}_{number}"
    module.register_buffer(name, value)
    return name


def drop_unread(module: fx.GraphModule) -> None:
    """Take out the parameters that no node reads; those of gates are read by the gates."""
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    called = {f"{node.target}." for node in module.graph.find_nodes(op="call_module")}
    for name, _ in list(module.named_parameters(remove_duplicate=False)):
        if name not in read and not name.startswith(tuple(called)):
            delattr(*owner_of(module, name))


def tensor_names(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that the graph reads, each once, in the graph's order.

    An attribute that nothing uses is left out: tied weights leave such nodes behind.
    """
    seen: set[str] = set()
    for node in module.graph.nodes:
        for name in _tensors_read_by(module, node):
            if name not in seen:
                seen.add(name)
                yield name, tensor_at(module, name)


def _tensors_read_by(module: fx.GraphModule, node: fx.Node) -> list[str]:
    if node.op == "get_attr" and node.users:
        return [str(node.target)]
    if node.op == "call_module":
        owner = module.get_submodule(str(node.target))
        return [f"{node.target}.{name}" for name, _ in owner.named_parameters(recurse=False)]
    return []


def where(node: fx.Node) -> str:
    """The node, the module it came from and the source line, for messages."""
    parts = [node.name]
    if path := module_path(node):
        parts.append(f"in {path}")
    if line := source_line(node):
        parts.append(f"({line})")
    return " ".join(parts)


def module_path(node: fx.Node) -> str:
    """The dotted path of the module whose ``forward`` made the node; empty for the top one."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def source_line(node: fx.Node) -> str:
    """``file.py:line`` of the innermost frame that is the model's code rather than torch's."""
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [frame for frame in frames if "/torch/" not in frame] or frames
    if not own:
        return ""
    path, line = own[-1].split(",")[:2]
    return f"{path.split('/')[-1].strip(chr(34))}:{line.replace('line', '').strip()}"


def is_pointwise(node: fx.Node) -> bool:
    """Whether every element of the result is made of the operands' elements at its place."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def operands(node: fx.Node) -> list[fx.Node]:
    """The node's tensor inputs, in order; one that is passed twice stands twice."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return [operand for operand in found if is_tensor(operand)]


def refresh_shapes(module: fx.GraphModule) -> None:
    """Work out every node's shape and type again, after a rewrite, with the batch kept symbolic.

    Inputs take the device of the parameters, and floating-point ones their type, so that
    ``module.double()`` or ``module.cuda()`` is enough to work there.
    """
    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    mode = next((value.fake_mode for value in inputs if isinstance(value, FakeTensor)), None)
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    inputs = [_placed(value, like) for value in inputs]
    # Recurrent layers know symbolic sizes in Python only, where they warn of their own internals.
    with enable_python_dispatcher(), silenced():
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*inputs)


def _placed(value: Any, like: Tensor | None) -> Any:
    if like is None or not isinstance(value, Tensor):
        return value
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)


def to_dtype(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """Turn a graph's parameters, buffers and casts to another precision, in place.

    The recorded types are left alone: ``refresh_shapes`` brings them up to date.
    """
    other = {torch.float32, torch.float64} - {dtype}
    module.to(dtype)
    for node in module.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, lambda a: dtype if _is_one_of(a, other) else a)
        node.kwargs = fx.node.map_aggregate(
            node.kwargs, lambda a: dtype if _is_one_of(a, other) else a
        )
    module.recompile()
    return module


def _is_one_of(argument: Any, dtypes: set[torch.dtype]) -> bool:
    return isinstance(argument, torch.dtype) and argument in dtypes


def check_graph(module: fx.GraphModule) -> None:
    """Check the rules that every graph here keeps.

    Topological order, one output, attributes that exist, ops that are ATen's (or on a short list),
    no op that writes to its input, and a shape on every tensor.

    Raises:
        GraphError: Naming the first node that breaks a rule.
    """
    try:
        module.graph.lint()
    except (RuntimeError, AssertionError) as error:
        raise GraphError(f"the graph is not well formed: {error}") from error
    outputs = [node for node in module.graph.nodes if node.op == "output"]
    if len(outputs) != 1:
        raise GraphError(f"a graph has one output node, this one has {len(outputs)}")
    for node in module.graph.nodes:
        if complaint := _complaint(module, node):
            raise GraphError(complaint, where=where(node), hint=_TRACE_IT)


# Also what has been in a file: it comes back without the shapes of its nodes.
_TRACE_IT = "Trace it: vibfx.trace(graph, x) makes one that keeps the rules."


def _complaint(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        known = isinstance(module.get_submodule(str(node.target)), VIBGate)
        return "" if known else "a module call other than a gate"
    if node.op == "get_attr":
        tensor_at(module, str(node.target))
    if node.op == "call_method":
        return "a method call; graphs here hold ATen ops"
    if node.op == "call_function":
        return _complaint_about_call(node)
    return ""


def _complaint_about_call(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        if node.target._schema.is_mutable:
            return f"{node.target} writes to its input"
    elif node.target not in PYTHON_TARGETS:
        return f"{node.target} is no ATen op"
    return "" if "val" in node.meta else "a node without a known shape"


def drop_dead_calls(module: fx.GraphModule) -> None:
    """Drop the ops whose results nothing reads, so that nothing in them counts as removable."""
    for node in reversed(module.graph.nodes):
        if node.op == "call_function" and not node.users:
            module.graph.erase_node(node)
    module.recompile()


def driven_by_input(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose content depends on the model's input, and not only their size."""
    driven: set[fx.Node] = set()
    for node in graph.nodes:
        is_size = not isinstance(node.meta.get("val"), (Tensor, list, tuple))
        if node.op == "placeholder" or not (is_size or driven.isdisjoint(node.all_input_nodes)):
            driven.add(node)
    return driven


def drop_dead_nodes(module: fx.GraphModule) -> None:
    """Drop all that nothing reads, ops included that may draw random numbers (attention, LSTM)."""
    for node in reversed(module.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            module.graph.erase_node(node)


def drop_dead_ties(module: fx.GraphModule) -> None:
    """Drop the unread names of tensors that are read under another name.

    Tied weights leave them behind. Such a name would keep the whole tensor alive after a rewrite
    has replaced the one that is read.
    """
    names = dict(tensor_names(module))
    read = set(map(id, names.values()))
    tensors = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    dead = {name for name, tensor in tensors if name not in names and id(tensor) in read}
    for node in module.graph.find_nodes(op="get_attr"):
        if node.target in dead:
            module.graph.erase_node(node)
    for name in dead:  # a pass may have dropped the node that would have read it
        delattr(*owner_of(module, name))
    module.recompile()
