"""The arguments of a graph's nodes as plain values for JSON, and back."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from vibfx.errors import OutputError
from vibfx.model_files.refusals import damaged_graph

_DTYPES = {str(v): v for v in vars(torch).values() if isinstance(v, torch.dtype)}
_LAYOUTS = {str(v): v for v in vars(torch).values() if isinstance(v, torch.layout)}
_FORMATS = {str(v): v for v in vars(torch).values() if isinstance(v, torch.memory_format)}

_KINDS: dict[type, str] = {
    torch.dtype: "dtype",
    torch.device: "device",
    torch.layout: "layout",
    torch.memory_format: "memory_format",
}


def written(value: Any) -> Any:
    """One argument, however nested, as a plain value.

    Args:
        value: A node, a tensor's property or a constant, or a container of them.

    Raises:
        OutputError: It is something else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [written(entry) for entry in value]
    if isinstance(value, tuple):
        return {"tuple": [written(entry) for entry in value]}
    if isinstance(value, slice):
        return {"slice": [written(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, complex):
        return {"complex": [written(value.real), written(value.imag)]}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return {name: str(value)}
    raise OutputError(f"an argument of type {type(value).__name__} cannot be written to a file")


def read(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """The argument that ``written`` wrote.

    Args:
        value: The plain value.
        nodes: The nodes there are so far, by name.

    Raises:
        ModelFileError: It is not of that kind, or a node is not there.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [read(entry, nodes) for entry in value]
    ((kind, content),) = value.items()
    match kind:
        case "node":
            return nodes[content]
        case "tuple":
            return tuple(read(entry, nodes) for entry in content)
        case "slice":
            return slice(*(read(part, nodes) for part in content))
        case "float":
            return float(content)
        case "complex":
            return complex(*(read(part, nodes) for part in content))
        case "dtype":
            return _DTYPES[content]
        case "device":
            return torch.device(content)
        case "layout":
            return _LAYOUTS[content]
        case "memory_format":
            return _FORMATS[content]
    raise damaged_graph(f"an argument in its graph is a {kind!r}")
