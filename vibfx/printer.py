"""A graph as text, the same for the same graph on every run and machine."""

import re

import torch
from torch import Tensor, fx

from vibfx.graph import module_path, tensor_at

_TYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def format_graph(module: fx.GraphModule) -> str:
    """One line a node: name, type and shape, op, arguments, and the module it came from.

    Symbolic sizes are renamed ``N``, ``N1``, ... in order of appearance, since their own names
    differ from run to run.
    """
    symbols: dict[str, str] = {}
    return "\n".join(_line(module, node, symbols) for node in module.graph.nodes) + "\n"


def _line(module: fx.GraphModule, node: fx.Node, symbols: dict[str, str]) -> str:
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    value = node.meta.get("val")
    if node.op == "get_attr":
        value = tensor_at(module, str(node.target))
    head = f"%{node.name}: {_type(value, symbols)} = {_call(node)}"
    origin = module_path(node)
    return f"{head}  # {origin}" if origin and node.op == "call_function" else head


def _call(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return f"attribute {node.target}"
    arguments = [_argument(a) for a in node.args]
    arguments += [f"{key}={_argument(a)}" for key, a in node.kwargs.items()]
    return f"{_target(node)}({', '.join(arguments)})"


def _target(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).removesuffix(".default")
    return str(getattr(node.target, "__name__", node.target))


def _argument(argument: object) -> str:
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(_argument(item) for item in argument)}]"
    if isinstance(argument, dict):
        return f"{{{', '.join(f'{key}: {_argument(v)}' for key, v in argument.items())}}}"
    return str(argument)


def _type(value: object, symbols: dict[str, str]) -> str:
    if isinstance(value, Tensor):
        sizes = ", ".join(_size(size, symbols) for size in value.shape)
        return f"{_TYPES.get(value.dtype, str(value.dtype))}[{sizes}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_type(item, symbols) for item in value)})"
    return "int" if isinstance(value, torch.SymInt) else type(value).__name__


def _size(size: object, symbols: dict[str, str]) -> str:
    if isinstance(size, int):
        return str(size)
    expression = str(size)
    for symbol in sorted(str(s) for s in size.node.expr.free_symbols):  # type: ignore[attr-defined]
        name = symbols.setdefault(symbol, f"N{len(symbols) or ''}")
        expression = re.sub(rf"\b{symbol}\b", name, expression)
    return expression
