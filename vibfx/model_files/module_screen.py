"""Checks a module that was read from a file for what would call something of the file's choosing.

That is hooks, and attributes that stand in for methods. Both can be made of layers, which the file
may name, so the screen of the pickle does not see them.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from vibfx.errors import ModelFileError
from vibfx.model_files.refusals import damaged
from vibfx.model_files.trust import Trust


def check_module(model: nn.Module, trust: Trust) -> None:
    """Checks a module, and every module, tensor and dict below it, before it is used.

    Args:
        model: The module, as it was read.
        trust: The packages whose code may be a hook or stand in for a method.

    Raises:
        ModelFileError: A module is incomplete, has a hook or replaces a method.
        RecursionError: The module is nested too deeply.
    """
    for value in _reachable(model, set()):
        if isinstance(value, nn.Module):
            _check_complete(value)
        _check_hooks(value, trust)
        _check_methods(value, trust)


def _reachable(value: object, seen: set[int]) -> Iterator[object]:
    """Every module, tensor and dict below a value, each before what lies below it."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | Tensor | dict):
        yield value
    for entry in _entries(value):
        yield from _reachable(entry, seen)


def _entries(value: object) -> list[object]:
    if isinstance(value, nn.Module | Tensor):
        return list(_attributes(value).values())
    if isinstance(value, dict):
        return [*_attributes(value).values(), *value.values()]
    if isinstance(value, list | tuple | set):
        return list(value)
    return []


def _attributes(value: object) -> dict[str, object]:
    # A plain dict has none; an OrderedDict has, and they can stand in for its methods too.
    attributes: dict[str, object] = getattr(value, "__dict__", {})
    return attributes


def _check_complete(module: nn.Module) -> None:
    for name, kind in (("_modules", nn.Module), ("_parameters", Tensor), ("_buffers", Tensor)):
        entries = vars(module).get(name)
        sound = isinstance(entries, dict) and all(
            isinstance(key, str) and isinstance(entry, kind | None)
            # Not entries.items(): its attributes are not checked yet.
            for key, entry in dict.items(entries)
        )
        if not sound:
            raise damaged(f"a module of type {type(module).__name__} has no usable {name}")


def _check_hooks(value: object, trust: Trust) -> None:
    for name, hooks in _hook_tables(value).items():
        if not hooks:
            continue
        if isinstance(hooks, dict) and all(map(trust.covers_value, dict.values(hooks))):
            continue
        raise ModelFileError(
            f"The file gives {type(value).__name__} {name}, which would run along with it.",
            hint="Remove the hooks before saving the model, or trust their module with --trust.",
        )


def _hook_tables(value: object) -> dict[str, object]:
    if isinstance(value, Tensor):
        # These are no entries of its __dict__.
        names = ("_backward_hooks", "_post_accumulate_grad_hooks")
        return {name: getattr(value, name) for name in names}
    attributes = _attributes(value)
    return {name: table for name, table in attributes.items() if str(name).endswith("_hooks")}


def _check_methods(value: object, trust: Trust) -> None:
    if trust.covers_value(value):
        return
    for name, attribute in _attributes(value).items():
        if _stands_in_for_method(name, type(value)) and not trust.covers_value(attribute):
            raise ModelFileError(
                f"The file replaces the method {name} of {type(value).__name__}.",
                hint="Put the change into a class of your own, and trust its module with --trust.",
            )


def _stands_in_for_method(name: object, kind: type) -> bool:
    if not isinstance(name, str):
        return True
    # torch calls this one in place of forward; on the class it is None.
    return name == "_compiled_call_impl" or callable(getattr(kind, name, None))
