"""``package.module:function``: calls a function of the user's for the loaders, and checks them."""

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vibfx.data.batches import Loader
from vibfx.data.checks import (
    check_known_labels,
    check_shape,
    check_two_classes,
    classes_seen,
    first_batch,
)
from vibfx.data.request import FORMS, Data, Request, numbers
from vibfx.errors import DataError

_log = logging.getLogger(__name__)

_PARTS = ("train", "validation", "test")


def from_function(request: Request) -> Data:
    """The loaders that a function of the user's returns, checked by their first batches."""
    spec = request.spec
    if request.normalization is not None:
        raise DataError(
            "mean and std do not apply to the batches of a function",
            where=spec,
            hint="normalize inside the function",
        )
    train, validation, test = _three_loaders(_call(spec), spec)
    parts = {"training": train, "validation": validation, "test": test}
    firsts = {part: first_batch(loader, part, spec) for part, loader in parts.items()}
    for x, _ in firsts.values():
        check_shape(x, request.input_shape, request.spec)
    check_two_classes(classes_seen(train), spec)
    classes = getattr(getattr(train, "dataset", None), "classes", None)
    if not isinstance(classes, (list, tuple)):
        classes = numbers(max(int(y.max()) for _, y in firsts.values()) + 1)
    for part, (_, y) in firsts.items():
        check_known_labels(y, part, len(classes), spec)
    return Data(spec, train, validation, test, tuple(map(str, classes)), preprocessing=None)


def _call(spec: str) -> Any:
    module_name, _, function_name = spec.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise DataError(
                f"the module cannot be imported: {error}",
                where=spec,
                hint="it is looked for in the current folder, then among the installed packages;\n"
                f"  for anything else {FORMS}",
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise DataError(
                f"{module_name} has no function {function_name}",
                where=spec,
                hint=f"the module was found at {getattr(module, '__file__', None)}",
            )
        return function()


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _three_loaders(result: Any, spec: str) -> tuple[Loader, Loader, Loader]:
    loaders = _loaders_in(result)
    if len(loaders) not in (2, 3):
        raise DataError(
            f"the function returned {_describe(result)} instead of loaders",
            where=spec,
            hint="return (train, test), (train, validation, test), or a mapping with those keys",
        )
    if len(loaders) == 2:
        _log.warning(
            "%s returned two loaders: choices are made by the test set too, so its results "
            "flatter; return (train, validation, test)",
            spec,
        )
    return loaders[0], loaders[1], loaders[-1]


def _loaders_in(result: Any) -> list[Any]:
    """The loaders in order; none where the result has not the right form."""
    if isinstance(result, Mapping):
        named = {"train", "test"} <= set(result) <= set(_PARTS)
        return [result[part] for part in _PARTS if part in result] if named else []
    return list(result) if isinstance(result, (tuple, list)) else []


def _describe(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a mapping with the keys {', '.join(map(str, result))}"
    if isinstance(result, (tuple, list)):
        return f"{len(result)} values"
    return f"an object of type {type(result).__name__}"
