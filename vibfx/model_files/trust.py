"""The packages that the caller of ``load_model`` vouches for, and how their names are looked up."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

from vibfx.errors import ModelFileError
from vibfx.importing import current_folder_importable
from vibfx.model_files.refusals import OTHER_VERSION, described


@dataclass(frozen=True)
class Trust:
    """The modules whose code a model file may run.

    Args:
        prefixes: Names of packages or modules; each stands for all that lies below it too.
    """

    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, prefixes: Sequence[str]) -> "Trust":
        """Checks the names that the user gave.

        Args:
            prefixes: Names of packages or modules.

        Returns:
            The trust in them.

        Raises:
            ModelFileError: One of them is not the name of a package.
        """
        if isinstance(prefixes, str):
            raise TypeError("trust takes a sequence of names, not one string")
        for prefix in prefixes:
            # An empty prefix, or part of one, would stand for every module there is.
            if not all(part.isidentifier() for part in prefix.split(".")):
                raise ModelFileError(
                    f"{prefix!r} is not the name of a package to trust.",
                    hint="Name a package or a module, such as mypkg or mypkg.layers.",
                )
        return cls(tuple(prefixes))

    def covers(self, module: str) -> bool:
        """Whether a module is trusted."""
        return is_below(module, self.prefixes)

    def covers_value(self, value: object) -> bool:
        """Whether a value is code of a trusted module, or an instance of a class from there."""
        return self.covers(_defining_module(value))

    def look_up(self, module: str, name: str) -> Any:
        """Imports a trusted module, from the current directory too, and takes a name from it.

        Args:
            module: The module.
            name: The class or function in it.

        Returns:
            The class or function.

        Raises:
            ModelFileError: There is no such thing, or the module only borrows it from another.
        """
        try:
            value = getattr(_imported(module), name)
        except AttributeError as error:
            raise ModelFileError(
                f"The trusted module {module} has no {name}.", hint=OTHER_VERSION
            ) from error
        # After `from os import system` in mypkg, mypkg.system is still not code of mypkg.
        if not self.covers_value(value):
            raise ModelFileError(
                f"The file needs {module}.{name}, which {module} only borrows from "
                f"{_defining_module(value)}.",
                hint="A saved module names its classes where they are defined: mistrust this file.",
            )
        return value


def is_below(module: str, packages: Iterable[str]) -> bool:
    """Whether a module is one of the packages or lies inside one: ``a.b`` in ``a``, not ``ab``."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _defining_module(value: object) -> str:
    is_code = isinstance(value, type | FunctionType | BuiltinFunctionType)
    return getattr(value if is_code else type(value), "__module__", None) or ""


def _imported(module: str) -> object:
    try:
        with current_folder_importable():
            return importlib.import_module(module)
    except Exception as error:  # the imported code decides what it raises
        raise ModelFileError(
            f"The trusted module {module} cannot be imported: {described(error)}.",
            hint="Install it, or run from the folder that holds it.",
        ) from error
