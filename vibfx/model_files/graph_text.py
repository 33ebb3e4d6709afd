"""A graph as text: its nodes, what it takes and returns, and which tensors it reads.

The text stands beside a file of tensors. Python source is made of what it holds when the graph is
built again, so every name in it is checked to be one, and every operator to be harmless.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from vibfx.errors import OutputError
from vibfx.graph import module_path, refresh_shapes, shape_of, tensor_names
from vibfx.input_form import InputForm
from vibfx.inputs import traced_batch
from vibfx.model_files.literals import read, written
from vibfx.model_files.names import is_identifier, is_quotable_path
from vibfx.model_files.operators import name_of, operator_named
from vibfx.model_files.refusals import damaged_graph
from vibfx.model_files.trust import Trust
from vibfx.nesting import nesting_of, spec_of
from vibfx.propagation import SELECTIONS

FORMAT_VERSION = 1

# More elements than any tensor has that one machine computes.
_LARGEST = 2**38


def describe_graph(module: fx.GraphModule) -> dict[str, Any]:
    """A graph as plain values for JSON.

    Args:
        module: A graph without gates.

    Raises:
        OutputError: A node holds what cannot be written.
    """
    info = getattr(module.graph._codegen, "pytree_info", None)
    return {
        "format": FORMAT_VERSION,
        "name": type(module).__name__,
        "batch": traced_batch(module),
        "arguments": info and list(info.orig_args),
        "takes": info and nesting_of(info.in_spec),
        "returns": info and nesting_of(info.out_spec),
        "selections": list(module.meta.get(SELECTIONS, ())),
        "tensors": _tensors(module),
        "nodes": [_described(node) for node in module.graph.nodes if _is_used(node)],
    }


def _tensors(module: fx.GraphModule) -> dict[str, dict[str, Any]]:
    """What each tensor is, and under which name it is stored if that is not its own."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in tensor_names(module):
        found[name] = {"kind": _kind(tensor), **_form(tensor)}
        if (stored := first.setdefault(id(tensor), name)) != name:
            found[name]["stored"] = stored
    return found


def _form(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}


def _kind(tensor: Tensor) -> str:
    if not isinstance(tensor, nn.Parameter):
        return "buffer"
    return "parameter" if tensor.requires_grad else "frozen"


def _is_used(node: fx.Node) -> bool:
    return node.op != "get_attr" or bool(node.users)


def _described(node: fx.Node) -> dict[str, Any]:
    found: dict[str, Any] = {"name": node.name, "op": node.op}
    match node.op:
        case "placeholder":
            return found | {"argument": str(node.target), **_input(node)}
        case "get_attr":
            return found | {"tensor": str(node.target)}
        case "call_function":
            found |= {"calls": name_of(node.target), "args": [written(a) for a in node.args]}
            if node.kwargs:
                found["kwargs"] = {key: written(value) for key, value in node.kwargs.items()}
            path = module_path(node)
            return found | ({"module": path} if path else {})
        case "output":
            return found | {"args": [written(a) for a in node.args]}
    raise OutputError(
        f"the graph calls the module {node.target}, which has no text",
        where=node.name,
        hint="Fold gates into the weights with FoldGates first.",
    )


def _input(node: fx.Node) -> dict[str, Any]:
    form = InputForm.of(node)
    return {"tensor": asdict(form)} if form else {"constant": written(node.meta.get("val"))}


def build_graph(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], trust: Trust
) -> fx.GraphModule:
    """The graph that was described, with the shapes of all its nodes.

    Args:
        description: What ``describe_graph`` returned.
        tensors: Its tensors by the name they are stored under.
        trust: The packages whose operators it may call.

    Raises:
        ModelFileError: It calls what it may not, or holds what a graph does not.
    """
    root = nn.Module()
    made: dict[str, Tensor] = {}
    for name, entry in description["tensors"].items():
        stored = entry.get("stored", name)
        if _form(tensors[stored]) != {"shape": entry["shape"], "dtype": entry["dtype"]}:
            raise damaged_graph(f"{name} is not the tensor that was saved with it")
        made[stored] = made.get(stored, _of_kind(entry["kind"], tensors[stored]))
        _add_tensor(root, name, made[stored])
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for entry in description["nodes"]:
        name = _identifier(entry["name"])
        nodes[name] = _created(graph, name, entry, nodes, description["tensors"], trust)
        if nodes[name].name != name:
            raise damaged_graph(f"its graph has two nodes named {name}")
    if description["takes"] is not None:
        arguments = list(map(_identifier, description["arguments"]))
        specs = spec_of(description["takes"]), spec_of(description["returns"])
        graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(arguments, *specs)))
    module = fx.GraphModule(root, graph, _identifier(description["name"]))
    if selections := tuple(description["selections"]):
        module.meta[SELECTIONS] = selections
    _give_shapes(module, description["batch"])
    return module.eval()


def _of_kind(kind: str, value: Tensor) -> Tensor:
    return value if kind == "buffer" else nn.Parameter(value, requires_grad=kind == "parameter")


def _add_tensor(root: nn.Module, name: str, value: Tensor) -> None:
    if not is_quotable_path(name):
        raise damaged_graph(f"{name!r} is no name of a tensor")
    *path, attribute = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(attribute, value)
    else:
        owner.register_buffer(attribute, value)


def _created(
    graph: fx.Graph,
    name: str,
    entry: Mapping[str, Any],
    nodes: Mapping[str, fx.Node],
    tensors: Container[str],
    trust: Trust,
) -> fx.Node:
    match entry["op"]:
        case "placeholder":
            node = graph.create_node("placeholder", _identifier(entry["argument"]), name=name)
            node.meta["val"] = entry  # until _give_shapes
            return node
        case "get_attr":
            if (tensor := entry["tensor"]) not in tensors:
                raise damaged_graph(f"its graph reads a tensor {tensor!r} that is not there")
            return graph.create_node("get_attr", tensor, name=name)
        case "call_function":
            target = operator_named(entry["calls"], trust)
            args = tuple(read(value, nodes) for value in entry["args"])
            named = entry.get("kwargs", {}).items()
            kwargs = {_identifier(key): read(value, nodes) for key, value in named}
            node = graph.create_node("call_function", target, args, kwargs, name=name)
            if path := entry.get("module"):
                node.meta["nn_module_stack"] = {path: (path, "")}
            return node
        case "output":
            (value,) = entry["args"]
            return graph.create_node("output", "output", (read(value, nodes),), name=name)
    raise damaged_graph(f"its graph has a node of the kind {entry['op']!r}")


def _identifier(name: str) -> str:
    if not is_identifier(name):
        raise damaged_graph(f"{name!r} is no name")
    return name


def _give_shapes(module: fx.GraphModule, batch: int) -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with torch.no_grad():
        for node in module.graph.find_nodes(op="placeholder"):
            node.meta["val"] = _fake(mode, node.meta["val"], batch)
        refresh_shapes(module)
    for shape in map(shape_of, module.graph.nodes):
        if math.prod(shape) > _LARGEST:
            raise damaged_graph(f"a tensor of shape {shape} is larger than any machine holds")


def _fake(mode: FakeTensorMode, value: Mapping[str, Any], batch: int) -> Any:
    if "constant" in value:
        return read(value["constant"], {})
    try:
        form = InputForm.from_fields(value["tensor"])
        like = torch.empty(form.sizes(batch), dtype=form.torch_dtype)
    except ValueError as error:
        raise damaged_graph(str(error)) from error
    open_dims = [DimDynamic.DYNAMIC if s is None else DimDynamic.STATIC for s in form.shape]
    context: Any = StatelessSymbolicContext(dynamic_sizes=open_dims)
    return mode.from_tensor(like, symbolic_context=context)
