"""Reads a whole model from a file without running code that the file brings along.

``torch.save(model, path)`` writes a zip archive: a pickle that says how to rebuild the objects, and
one record for each tensor. A pickle is a small program, and an ordinary unpickler runs it whatever
it does. Three checks stand between such a file and the process that reads it:

1. **Before anything is loaded**, `pickle_screen` follows the pickle symbolically and lists
   the classes it may use.
2. **While it is loaded**, torch's own restricted unpickler (``weights_only=True``) is given exactly
   these classes.
3. **After it is loaded**, `module_screen` looks for what would call something of the file's
   choosing later on: hooks, and attributes that stand in for methods.

Classes of other packages are read only when the caller trusts the package by name, because its code
then runs with arguments that the file chooses.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn
from torch.serialization import safe_globals

from vibfx.errors import ModelFileError
from vibfx.model_files.module_screen import check_module
from vibfx.model_files.pickle_screen import allowed_globals
from vibfx.model_files.refusals import OTHER_VERSION, SAVE_WHOLE, damaged, described
from vibfx.model_files.trust import Trust


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
        return _load(path, Trust.of(trust))
    except ModelFileError as error:
        raise ModelFileError(error.what, where=str(path), hint=error.hint) from error.__cause__


def _load(path: Path, trust: Trust) -> nn.Module:
    # One handle for every step, so that all of them see the same file.
    with _opened(path) as file:
        _check_archive(file, path.suffix)
        loaded = _rebuilt(file, trust)
    if not isinstance(loaded, nn.Module):
        raise _not_a_module(loaded)
    try:
        check_module(loaded, trust)
        return _unwrapped(loaded.eval())
    except RecursionError as error:
        raise ModelFileError(
            "The model contains itself, or is nested too deeply to be used.", hint=SAVE_WHOLE
        ) from error


def _opened(path: Path) -> IO[bytes]:
    try:
        if not path.exists():
            raise ModelFileError("The model file does not exist.", hint="Check the path.")
        if not path.is_file():
            # A pipe or a device may never end.
            raise ModelFileError(
                "The path names a folder or a device, not a model file.", hint="Check the path."
            )
        return path.open("rb")
    except OSError as error:
        raise ModelFileError(
            f"The model file cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error


# --- what kind of file it is --------------------------------------------------------------------


def _check_archive(file: IO[bytes], suffix: str) -> None:
    head = file.read(4)
    if head != b"PK\x03\x04":
        raise _not_an_archive(head, suffix)
    size = file.seek(0, os.SEEK_END)
    try:
        # Its answers only choose a message: what is loaded is read by torch's own zip reader.
        with zipfile.ZipFile(file) as archive:
            records = {name.rpartition("/")[2] for name in archive.namelist()}
            broken = _broken_record(archive, size)
    except Exception as error:  # zipfile raises more than its own errors on a damaged file
        raise damaged(f"its zip archive cannot be read ({described(error)})") from error
    if broken is not None:
        raise ModelFileError(
            f"The model file is damaged: its record {broken} does not match its checksum.",
            hint="Copy the file again, or save the model again.",
        )
    _check_kind(records)


def _broken_record(archive: zipfile.ZipFile, size: int) -> str | None:
    records = archive.infolist()
    # torch.save does not compress. Reading every record of a zip bomb would take forever.
    if sum(record.file_size for record in records) > size:
        raise zipfile.BadZipFile("its records are larger than the file")
    # torch itself does not compare checksums: a flipped bit would pass for a weight. It writes none
    # at all after torch.serialization.set_crc32_options(False).
    return archive.testzip() if any(record.CRC for record in records) else None


def _check_kind(records: set[str]) -> None:
    if "constants.pkl" in records:
        raise ModelFileError(
            "The file is a TorchScript program.",
            hint="Save the eager module it was made from with torch.save(model, path).",
        )
    if "archive_format" in records:
        raise ModelFileError(
            "The file is a program of torch.export; vibfx reads eager modules here.",
            hint="Save the module it was exported from with torch.save(model, path).",
        )
    if "data.pkl" not in records:
        raise ModelFileError(
            "The file is a zip archive that torch.save did not write.", hint=SAVE_WHOLE
        )


def _not_an_archive(head: bytes, suffix: str) -> ModelFileError:
    if not head:
        return ModelFileError("The model file is empty.", hint=SAVE_WHOLE)
    if suffix == ".onnx":
        return ModelFileError(
            "The file is an ONNX model, which is already exported.",
            hint="Pass the PyTorch model it came from, saved with torch.save(model, path).",
        )
    if suffix == ".safetensors":
        return _only_weights()
    if head.startswith(pickle.PROTO):
        return ModelFileError(
            "The file is a plain pickle or from before torch 1.6, and cannot be read safely.",
            hint=f"Load it where it was made and save it again there. {SAVE_WHOLE}",
        )
    return ModelFileError("The file is not a model that torch.save wrote.", hint=SAVE_WHOLE)


# --- what it holds ------------------------------------------------------------------------------


def _rebuilt(file: IO[bytes], trust: Trust) -> object:
    allowed = allowed_globals(file, trust)
    file.seek(0)
    try:
        with safe_globals(allowed):
            loaded: object = torch.load(file, map_location="cpu", weights_only=True)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"The file does not fit the installed torch {torch.__version__}: {described(error)}.",
            hint=OTHER_VERSION,
        ) from error
    except Exception as error:  # a damaged file can make any step of the rebuilding fail
        raise damaged(described(error)) from error
    return loaded


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(model, nn.DataParallel):
        inner = model._modules.get("module")
        if inner is None:
            raise damaged("a DataParallel in it wraps no module")
        model = inner
    return model


def _not_a_module(loaded: object) -> ModelFileError:
    if _is_weights(loaded):
        return _only_weights()
    return ModelFileError(
        f"The file holds an object of type {type(loaded).__name__}, not a module.", hint=SAVE_WHOLE
    )


def _only_weights() -> ModelFileError:
    return ModelFileError("The file holds weights without the model.", hint=SAVE_WHOLE)


def _is_weights(loaded: object) -> bool:
    """Whether this is a state dict, or a checkpoint with a state dict among its entries."""
    if not isinstance(loaded, Mapping):
        return False
    nested = [entry for entry in loaded.values() if isinstance(entry, Mapping)]
    return any(
        isinstance(value, Tensor) for entries in (loaded, *nested) for value in entries.values()
    )
