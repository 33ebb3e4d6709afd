"""``package.module:function``: calls a function of the user's for the loaders, and checks them."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vibfx.data.batches import Loader
from vibfx.data.checks import (
    check_known_labels,
    check_shape,
    check_two_classes,
    classes_seen,
    first_batch,
)
from vibfx.data.request import FORMS, Data, Request, kind_of, numbers
from vibfx.errors import DataError, InputError
from vibfx.importing import current_folder_importable, import_function

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
    labels = [y for _, y in firsts.values()]
    if len(kinds := {kind_of(y) for y in labels}) > 1:
        raise DataError(
            f"the loaders have labels of different kinds: {', '.join(sorted(kinds))}",
            where=spec,
            hint="give all of them classes (int64), values (float32) or no labels",
        )
    (kind,) = kinds
    classes = _classes(train, firsts, spec) if kind == "classes" else ()
    return Data(spec, train, validation, test, classes, preprocessing=None, labels=kind)


def _classes(
    train: Loader, firsts: Mapping[str, tuple[Tensor, Tensor | None]], spec: str
) -> tuple[str, ...]:
    check_two_classes(classes_seen(train), spec)
    labels = {part: y for part, (_, y) in firsts.items() if y is not None}
    classes = getattr(getattr(train, "dataset", None), "classes", None)
    if not isinstance(classes, (list, tuple)):
        classes = numbers(max(int(y.max()) for y in labels.values()) + 1)
    for part, y in labels.items():
        check_known_labels(y, part, len(classes), spec)
    return tuple(map(str, classes))


def _call(spec: str) -> Any:
    try:
        function = import_function(spec)
    except InputError as error:
        hint = f"{error.hint}; for anything else {FORMS}"
        raise DataError(error.what, where=spec, hint=hint) from error
    with current_folder_importable():
        return function()


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
