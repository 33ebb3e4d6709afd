"""``package.module:function``: finds a function of the user's."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vibfx.errors import InputError


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Look for modules in the current folder, too, as a script does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def import_function(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names, also in the current folder.

    Raises:
        InputError: There is no such module, or no such function in it.
    """
    module_name, _, name = spec.partition(":")
    with current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"the module cannot be imported: {error}",
                where=spec,
                hint="it is looked for in the current folder, then among the installed packages",
            ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(
            f"{module_name} has no function {name}",
            where=spec,
            hint=f"the module was found at {getattr(module, '__file__', None)}",
        )
    return function  # type: ignore[no-any-return]
