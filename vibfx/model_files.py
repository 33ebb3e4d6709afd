"""Reads a whole model from a file without running code that the file brings along.

``torch.save(model, path)`` writes a zip archive: a pickle that says how to rebuild the objects, and
one record for each tensor. A pickle is a small program, and an ordinary unpickler runs it whatever
it does. Three checks stand between such a file and the process that reads it:

1. **Before anything is loaded**, the pickle is followed symbolically (`_PickleScan`). It may *name*
   layers of torch and torchvision and plain data; it may *call* nothing but the few functions that
   rebuild tensors and containers. Constructors are not among them: ``torch.save`` restores a module
   by creating it empty and handing it its attributes.
2. **While it is loaded**, torch's own restricted unpickler (``weights_only=True``) is given exactly
   the classes that the first check let through.
3. **After it is loaded**, every module is inspected for what would call something of the file's
   choosing later on: hooks, and attributes that stand in for methods.

Classes of other packages are read only when the caller trusts the package by name, because its code
then runs with arguments that the file chooses.
"""

import importlib
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from vibfx.errors import ModelFileError

# Where the layers of eager models live. Importing these packages only defines classes and
# functions. The rest of torch.nn and torchvision (quantization, file readers, transforms that hold
# callables, ...) is left to --trust.
_LAYER_PACKAGES = (
    "torch.nn.modules",
    "torch.nn.parallel.data_parallel",
    "torchvision.models",
    "torchvision.ops",
)

# All that the pickle of a dense eager model calls. None of them runs what it is given, except
# _rebuild_from_type_v2, whose first argument the scan therefore counts as called too.
_REBUILD_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_REBUILDERS = {
    "_codecs.encode",
    "builtins.complex",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
    _REBUILD_FROM_TYPE,
}

_SAVE_WHOLE = "Save the whole module with torch.save(model, path)."
_OTHER_VERSION = "Load it with the version that saved it, or build the model again with this one."

# What a file may need that trust is no good answer to, and what to save in its place.
_EXPLAINED = {
    "torch.nn.parallel.distributed.DistributedDataParallel": (
        "The model is wrapped in DistributedDataParallel, which loads only in a process group.",
        "Save the module inside with torch.save(model.module, path).",
    ),
    "torch._dynamo.eval_frame.OptimizedModule": (
        "The model was compiled by torch.compile before it was saved.",
        "Save the module that was handed to torch.compile with torch.save(model, path).",
    ),
    "torch.fx.graph_module.reduce_graph_module": (
        "The file holds a torch.fx.GraphModule: Python source, which loading would run.",
        "Save the module that was traced with torch.save(model, path).",
    ),
    "builtins.getattr": (
        "The file looks up an attribute by name, as for a class inside another class or a method.",
        "Move the class or the function to the top level of its module and save the model again.",
    ),
}


def load_model(path: str | Path, *, trust: Sequence[str] = ()) -> nn.Module:
    """Reads a module that ``torch.save(model, path)`` wrote, without running code from the file.

    Layers and models of torch and torchvision are read as they are. A model inside
    ``nn.DataParallel`` is unwrapped. ``DistributedDataParallel`` cannot be: rebuilding it needs a
    process group, so such a file is refused and the message says what to save in its place.

    Args:
        path: The file to read.
        trust: Names of packages or modules whose classes and functions the file may use as well:
            ``mypkg`` stands for ``mypkg`` and ``mypkg.layers``, not for ``mypkgother``. They are
            imported, from the current directory too, and **the file may run their code**.

    Returns:
        The module, in eval mode and on the CPU.

    Raises:
        ModelFileError: The file is missing, unreadable, damaged, not a whole module, or uses
            something that is neither a layer nor trusted.
    """
    path = Path(path)
    try:
        return _load(path, _Trust.of(trust))
    except ModelFileError as error:
        raise ModelFileError(error.what, where=str(path), hint=error.hint) from error.__cause__


def _load(path: Path, trusted: "_Trust") -> nn.Module:
    # One handle for every step, so that all of them see the same file.
    with _opened(path) as file:
        _check_container(file, path.suffix)
        allowed = _allowed_globals(file, trusted)
        loaded = _rebuild(file, allowed)
    if not isinstance(loaded, nn.Module):
        raise _not_a_module(loaded)
    _check_module(loaded, trusted)
    return _unwrapped(loaded)


def _damaged(reason: str) -> ModelFileError:
    return ModelFileError(
        f"The model file is damaged or was not written by torch.save: {reason}.",
        hint=f"Copy the file again. {_SAVE_WHOLE}",
    )


# --- the file and its container -----------------------------------------------------------------


def _opened(path: Path) -> IO[bytes]:
    try:
        _check_regular(path)
        return path.open("rb")
    except OSError as error:
        raise ModelFileError(
            f"The model file cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise ModelFileError("The model file does not exist.", hint="Check the path.")
    if path.is_dir():
        raise ModelFileError("The model file is a folder.", hint="Name the file inside it.")
    if not path.is_file():
        # A pipe or a device may never end.
        raise ModelFileError("The model file is not a regular file.", hint=_SAVE_WHOLE)


def _check_container(file: IO[bytes], suffix: str) -> None:
    head = file.read(64)
    file.seek(0)
    if not head:
        raise ModelFileError("The model file is empty.", hint=_SAVE_WHOLE)
    if not head.startswith(b"PK\x03\x04"):
        raise _not_an_archive(head, suffix)
    records = _record_names(file)
    if "constants.pkl" in records:
        raise ModelFileError(
            "The file is a TorchScript program.",
            hint="Save the eager module it was made from with torch.save(model, path).",
        )
    if records & {"archive_format", "serialized_exported_program.json"}:
        raise ModelFileError(
            "The file is a program of torch.export; vibfx reads eager modules here.",
            hint="Save the module it was exported from with torch.save(model, path).",
        )
    if "data.pkl" not in records:
        raise ModelFileError(
            "The file is a zip archive that torch.save did not write.", hint=_SAVE_WHOLE
        )


def _not_an_archive(head: bytes, suffix: str) -> ModelFileError:
    if suffix == ".onnx" or _looks_like_onnx(head):
        return ModelFileError(
            "The file is an ONNX model, which is already exported.",
            hint="Pass the PyTorch model it came from, saved with torch.save(model, path).",
        )
    if suffix == ".safetensors":
        return _only_weights()
    if b"l\xfc\x9cF\xf9 j\xa8P\x19." in head:
        return ModelFileError(
            "The file has the format of torch before 1.6, which cannot be read safely.",
            hint=f"Load it where it was made and save it again there. {_SAVE_WHOLE}",
        )
    if head[:1] == pickle.PROTO and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL]):
        return ModelFileError(
            "The file is a plain pickle, which cannot be read safely.", hint=_SAVE_WHOLE
        )
    return ModelFileError("The file is not a model that torch.save wrote.", hint=_SAVE_WHOLE)


def _looks_like_onnx(head: bytes) -> bool:
    # An ONNX model opens with its IR version (field 1, a small number) and goes on with the name of
    # its producer (field 2) or its graph (field 7).
    return head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a")


def _record_names(file: IO[bytes]) -> set[str]:
    """The archive's records, with and without the folder they lie in.

    The names only choose a message: what is loaded is read by torch's own zip reader.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise _damaged(f"its zip archive cannot be read ({error})") from error
    finally:
        file.seek(0)
    return {part for name in names for part in (name, name.partition("/")[2])}


# --- the first check: what the pickle names and calls -------------------------------------------


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class _Created:
    """An object that the pickle creates, and whether it was handed its attributes yet."""

    restored: bool = False


class _PickleScan:
    """Follows a pickle's stack without running it.

    A stack entry is a `_Global`, a `_Created` object, a tuple of entries, or ``None`` for any other
    value. The instructions are those that torch's restricted unpickler knows.

    Args:
        pickled: The pickle.

    Attributes:
        named: Everything the pickle names.
        called: What it calls among them.
    """

    VALUES = frozenset(
        {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
        | {"BINUNICODE", "SHORT_BINSTRING", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
    )
    TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")

    def __init__(self, pickled: bytes) -> None:
        self.named: set[_Global] = set()
        self.called: set[_Global] = set()
        self._stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: dict[int, object] = {}
        for opcode, argument, _ in pickletools.genops(pickled):
            self._follow(opcode.name, argument)

    def _follow(self, instruction: str, argument: Any) -> None:
        match instruction:
            case "GLOBAL":
                self._name(argument)
            case "NEWOBJ":
                self._create()
            case "REDUCE":
                self._call()
            case "BUILD":
                self._restore()
            case "MARK":
                self._outer_stacks.append(self._stack)
                self._stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(items)
            case "APPEND":
                self._pop(1)
            case "SETITEM":
                self._pop(2)
            case "APPENDS" | "SETITEMS":
                self._pop_to_mark()
            case "BINPERSID":
                self._pop(1)
                self._stack.append(None)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "PROTO":
                self._check_protocol(argument)
            case "STOP":
                pass
            case _ if instruction in self.TUPLES:
                self._stack.append(self._pop(self.TUPLES.index(instruction)))
            case _ if instruction in self.VALUES:
                self._stack.append(None)
            case _:
                raise _damaged(f"its pickle holds the instruction {instruction}")

    def _pop(self, count: int) -> tuple[object, ...]:
        if count > len(self._stack):
            raise IndexError("the stack is too short")
        start = len(self._stack) - count
        popped = tuple(self._stack[start:])
        del self._stack[start:]
        return popped

    def _pop_to_mark(self) -> tuple[object, ...]:
        popped = tuple(self._stack)
        self._stack = self._outer_stacks.pop()
        return popped

    def _check_protocol(self, protocol: int) -> None:
        if protocol != 2:
            raise ModelFileError(
                f"The file was saved with pickle protocol {protocol}, which cannot be read safely.",
                hint="Save it with torch.save(model, path), which uses protocol 2.",
            )

    def _name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        # Protocol 2 spells the module of Python's built-ins the way Python 2 did.
        found = _Global("builtins" if module == "__builtin__" else module, name)
        self.named.add(found)
        self._stack.append(found)

    def _create(self) -> None:
        kind, arguments = self._pop(2)
        # Without arguments this is object.__new__ and runs nothing; with them it is a call.
        if arguments != ():
            self._count_call(kind)
        self._stack.append(_Created())

    def _call(self) -> None:
        function, arguments = self._pop(2)
        self._count_call(function)
        if str(function) == _REBUILD_FROM_TYPE:
            self._count_inner_call(arguments)
        self._stack.append(_Created())

    def _count_call(self, function: object) -> None:
        if not isinstance(function, _Global):
            raise _damaged("its pickle calls something that is not a function")
        self.called.add(function)

    def _count_inner_call(self, arguments: object) -> None:
        function = arguments[0] if isinstance(arguments, tuple) and arguments else None
        # Nested in itself, it would hide what it calls one level further down.
        if str(function) == _REBUILD_FROM_TYPE:
            raise _damaged("its pickle rebuilds a tensor in a way that torch.save does not write")
        self._count_call(function)

    def _restore(self) -> None:
        self._pop(1)
        target = self._stack[-1]
        # Only a fresh object is sure to have no attribute that stands in for __setstate__.
        if not isinstance(target, _Created) or target.restored:
            raise _damaged("its pickle changes an object that it did not just create")
        target.restored = True


def _scan(file: IO[bytes]) -> _PickleScan:
    try:
        # torch.load reads the archive with this class too; a second zip reader could be shown
        # another pickle than the one that is loaded.
        pickled = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    except RuntimeError as error:
        raise _damaged("its pickle cannot be read from the archive") from error
    finally:
        file.seek(0)
    try:
        return _PickleScan(pickled)
    except (ValueError, LookupError) as error:
        raise _damaged(f"its pickle is malformed ({error})") from error


# --- what the file may use ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Trust:
    """The module-name prefixes that the caller vouches for."""

    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, prefixes: Sequence[str]) -> "_Trust":
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
        return _is_below(module, self.prefixes)

    def covers_value(self, value: object) -> bool:
        """Whether a value is code of a trusted module, or an instance of a class from there."""
        return self.covers(_defining_module(value))


def _is_below(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _defining_module(value: object) -> str:
    is_code = isinstance(value, type | FunctionType | BuiltinFunctionType)
    return getattr(value if is_code else type(value), "__module__", None) or ""


def _allowed_globals(
    file: IO[bytes], trusted: _Trust
) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The classes, and functions of trusted modules, that the file needs, with their full names.

    Raises:
        ModelFileError: The file needs something else as well.
    """
    scan = _scan(file)
    needed = _beyond_tensors(file, scan.named)
    _check_explained(needed, trusted)
    _check_origins(needed, trusted)
    _check_calls(scan.called, trusted)
    return [(_resolve(wanted, trusted), str(wanted)) for wanted in needed]


def _beyond_tensors(file: IO[bytes], named: Iterable[_Global]) -> list[_Global]:
    """What the file names beyond what torch's restricted unpickler reads of itself."""
    try:
        beyond = set(get_unsafe_globals_in_checkpoint(file))
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise _damaged("its pickle cannot be listed") from error
    finally:
        file.seek(0)
    return sorted((found for found in named if str(found) in beyond), key=str)


def _check_explained(needed: Iterable[_Global], trusted: _Trust) -> None:
    untrusted = {str(found) for found in needed if not trusted.covers(found.module)}
    for name, (what, hint) in _EXPLAINED.items():
        if name in untrusted:
            raise ModelFileError(what, hint=hint)


def _check_origins(needed: Iterable[_Global], trusted: _Trust) -> None:
    """Decides by name alone: nothing is imported for a file that is refused here."""
    packages = (*_LAYER_PACKAGES, *trusted.prefixes)
    strangers = [found for found in needed if not _is_below(found.module, packages)]
    for stranger in strangers:
        if stranger.module == "__main__":
            raise ModelFileError(
                f"{stranger.name} was defined in the script that saved the model.",
                hint="Move it into a module that can be imported, save the model again, and trust "
                "that module with --trust.",
            )
    if strangers:
        raise _unlisted(strangers)


def _check_calls(called: Iterable[_Global], trusted: _Trust) -> None:
    refused = sorted(
        str(function)
        for function in called
        if str(function) not in _REBUILDERS and not trusted.covers(function.module)
    )
    if refused:
        raise ModelFileError(
            f"Loading the file would call {_listed(refused)}.",
            hint=f"A saved module calls nothing but what rebuilds dense tensors. {_SAVE_WHOLE}",
        )


def _unlisted(strangers: Sequence[_Global]) -> ModelFileError:
    names = _listed([str(found) for found in strangers])
    prefixes = sorted({_suggested_prefix(found.module) for found in strangers})
    options = " ".join(f"--trust {prefix}" for prefix in prefixes)
    return ModelFileError(
        f"The file needs {names}, beyond the layers of torch and torchvision.",
        hint=f"{options} allows it; the file may then run code of {', '.join(prefixes)}, so use it "
        "only for a file whose author you trust.",
    )


def _suggested_prefix(module: str) -> str:
    package = module.partition(".")[0]
    # A user's package is trusted as a whole; of torch, no more than the file asks for.
    return module if package in ("torch", "torchvision") else package


def _listed(names: Sequence[str]) -> str:
    shown = 3
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _resolve(wanted: _Global, trusted: _Trust) -> Any:
    if trusted.covers(wanted.module):
        return _resolve_trusted(wanted, trusted)
    try:
        # vars, not getattr: a module may import or run something when asked for an attribute.
        value = vars(importlib.import_module(wanted.module))[wanted.name]
    except (ImportError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"The file needs {wanted}, which the installed {_version(wanted)} does not have.",
            hint=_OTHER_VERSION,
        ) from error
    if not _is_layer_class(value):
        raise _unlisted([wanted])
    return value


def _is_layer_class(value: object) -> bool:
    if not isinstance(value, type) or not issubclass(value, nn.Module):
        return False
    # A GraphModule writes Python source from its attributes and runs it.
    if issubclass(value, GraphModule):
        return False
    return _is_below(value.__module__, _LAYER_PACKAGES)


def _version(wanted: _Global) -> str:
    package = wanted.module.partition(".")[0]
    return f"{package} {getattr(sys.modules.get(package), '__version__', '')}".strip()


def _resolve_trusted(wanted: _Global, trusted: _Trust) -> Any:
    module = _import_trusted(wanted.module)
    try:
        value = getattr(module, wanted.name)
    except AttributeError as error:
        raise ModelFileError(
            f"The trusted module {wanted.module} has no {wanted.name}.", hint=_OTHER_VERSION
        ) from error
    # After `from os import system` in mypkg, mypkg.system is still not code of mypkg.
    if not trusted.covers_value(value):
        raise ModelFileError(
            f"The file needs {wanted}, which {wanted.module} only borrows from "
            f"{_defining_module(value)}.",
            hint="A saved module names its classes where they are defined: mistrust this file.",
        )
    return value


def _import_trusted(module: str) -> object:
    try:
        with _current_directory_importable():
            return importlib.import_module(module)
    except Exception as error:  # the imported code decides what it raises
        raise ModelFileError(
            f"The trusted module {module} cannot be imported: {_described(error)}.",
            hint="Install it, or run from the folder that holds it.",
        ) from error


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # The imported code may have changed the list as well.
        if here in sys.path:
            sys.path.remove(here)


def _described(error: Exception) -> str:
    # torch wraps its unpickler's reason in advice on how to switch the protection off.
    is_wrapped = isinstance(error, pickle.UnpicklingError) and error.__context__
    lines = str(error.__context__ if is_wrapped else error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")


# --- the second check: torch's restricted unpickler ---------------------------------------------


def _rebuild(
    file: IO[bytes], allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
) -> object:
    try:
        with safe_globals(allowed):
            loaded: object = torch.load(file, map_location="cpu", weights_only=True)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"The file does not fit the installed torch {torch.__version__}: {_described(error)}.",
            hint=_OTHER_VERSION,
        ) from error
    except Exception as error:  # a damaged file can make any step of the rebuilding fail
        raise _damaged(_described(error)) from error
    return loaded


def _not_a_module(loaded: object) -> ModelFileError:
    if _is_weights(loaded):
        return _only_weights()
    return ModelFileError(
        f"The file holds an object of type {type(loaded).__name__}, not a module.", hint=_SAVE_WHOLE
    )


def _only_weights() -> ModelFileError:
    return ModelFileError(
        "The file holds weights without the model.",
        hint="Save the whole module with torch.save(model, path).",
    )


def _is_weights(loaded: object) -> bool:
    """Whether this is a state dict, or a checkpoint with a state dict among its entries."""
    if not isinstance(loaded, Mapping):
        return False
    nested = [entry for entry in loaded.values() if isinstance(entry, Mapping)]
    return any(
        isinstance(value, Tensor) for entries in (loaded, *nested) for value in entries.values()
    )


# --- the third check: what the module would call ------------------------------------------------


def _check_module(model: nn.Module, trusted: _Trust) -> None:
    try:
        for value in _reachable(model, set()):
            if isinstance(value, nn.Module):
                _check_complete(value)
            _check_hooks(value, trusted)
            _check_methods(value, trusted)
    except RecursionError as error:
        raise _nested_too_deeply() from error


def _unwrapped(model: nn.Module) -> nn.Module:
    try:
        model.eval()
    except RecursionError as error:
        raise _nested_too_deeply() from error
    while isinstance(model, nn.DataParallel):
        model = model.module
    return model


def _nested_too_deeply() -> ModelFileError:
    return ModelFileError(
        "The model contains itself, or is nested too deeply to be used.", hint=_SAVE_WHOLE
    )


def _reachable(value: object, seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """Every module and tensor below a value, those in plain lists and dicts included."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module | Tensor):
        yield value
        yield from _reachable(vars(value), seen)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _reachable(entry, seen)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _reachable(entry, seen)


def _check_complete(module: nn.Module) -> None:
    for name, kind in (("_modules", nn.Module), ("_parameters", Tensor), ("_buffers", Tensor)):
        entries = vars(module).get(name)
        sound = isinstance(entries, dict) and all(
            isinstance(key, str) and isinstance(entry, kind | None)
            for key, entry in entries.items()
        )
        if not sound:
            raise _damaged(f"a {type(module).__name__} in it has no usable {name}")
    if isinstance(module, nn.DataParallel) and module._modules.get("module") is None:
        raise _damaged("a DataParallel in it wraps no module")


def _check_hooks(value: nn.Module | Tensor, trusted: _Trust) -> None:
    for name, hooks in _hook_tables(value).items():
        if not hooks:
            continue
        if isinstance(hooks, dict) and all(map(trusted.covers_value, hooks.values())):
            continue
        raise ModelFileError(
            f"A {type(value).__name__} in the file has {name}, which would run along with it.",
            hint="Remove the hooks before saving the model, or trust their module with --trust.",
        )


def _hook_tables(value: nn.Module | Tensor) -> dict[str, object]:
    if isinstance(value, Tensor):
        return {"_backward_hooks": value._backward_hooks}
    return {name: table for name, table in vars(value).items() if str(name).endswith("_hooks")}


def _check_methods(value: nn.Module | Tensor, trusted: _Trust) -> None:
    if trusted.covers_value(value):
        return
    for name, attribute in vars(value).items():
        if _stands_in_for_method(name, type(value)) and not trusted.covers_value(attribute):
            raise ModelFileError(
                f"A {type(value).__name__} in the file replaces its method {name}.",
                hint="Put the change into a class of your own, and trust its module with --trust.",
            )


def _stands_in_for_method(name: object, kind: type) -> bool:
    if not isinstance(name, str):
        return True
    # torch calls this one in place of forward; on the class it is None.
    return name == "_compiled_call_impl" or callable(getattr(kind, name, None))
