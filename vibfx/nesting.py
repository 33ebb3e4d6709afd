"""How arguments and results are nested, as JSON: lists, tuples, dicts, with numbered leaves.

torch's own text for this can name any class or module to import. This one knows containers alone,
so that reading it needs no class of the model's author. A dataclass comes back as a dict of its
fields, and so does any other mapping.
"""

import dataclasses
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

from torch.utils import _pytree as pytree


def nesting_of(spec: pytree.TreeSpec) -> Any:
    """What a spec nests, as plain values for JSON.

    Args:
        spec: The spec.
    """
    return _written(pytree.tree_unflatten(range(spec.num_leaves), spec))


def spec_of(nesting: Any) -> pytree.TreeSpec:
    """The spec of a nesting.

    Args:
        nesting: What ``nesting_of`` returned.

    Raises:
        ValueError: It is not of that kind.
    """
    leaves, spec = pytree.tree_flatten(_read(nesting))
    if leaves != list(range(len(leaves))):
        raise ValueError("the leaves of its arguments or results are not numbered in order")
    return spec


def _written(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {"dict": [[key, _written(entry)] for key, entry in value.items()]}
    if dataclasses.is_dataclass(value):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {"dict": [[name, _written(entry)] for name, entry in fields if entry is not None]}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        entries = [_written(entry) for entry in value]
        return {"tuple": entries} if names is None else {"named": [list(names), entries]}
    return {"list": [_written(entry) for entry in value]}


def _read(value: Any) -> Any:
    if type(value) is int:
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("its arguments or results are not nested as they should be")
    ((kind, entries),) = value.items()
    match kind:
        case "dict":
            keys = [key for key, _ in entries]
            if not all(isinstance(key, str | int) for key in keys) or len(set(keys)) < len(keys):
                raise ValueError("a dict among its arguments or results has no proper keys")
            return {key: _read(entry) for key, entry in entries}
        case "tuple":
            return tuple(map(_read, entries))
        case "named":
            names, fields = entries
            return namedtuple("Result", names)(*map(_read, fields))  # refuses what is no name
        case "list":
            return list(map(_read, entries))
    raise ValueError(f"its arguments or results nest a {kind!r}")
