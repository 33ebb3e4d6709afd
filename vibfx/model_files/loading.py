"""Reads a model from a file without running code that the file brings along.

``torch.save(model, path)`` writes a zip archive: a pickle that says how to rebuild the objects, and
one record for each tensor. A pickle is a small program, and an ordinary unpickler runs it whatever
it does. Three checks stand between such a file and the process that reads it:

1. **Before anything is loaded**, `pickle_screen` follows the pickle symbolically and lists
   the classes it may use. It also checks that every tensor lies within the numbers that are there.
2. **While it is loaded**, torch's own restricted unpickler (``weights_only=True``) is given exactly
   these classes.
3. **After it is loaded**, `module_screen` looks for what would call something of the file's
   choosing later on: hooks, and attributes that stand in for methods.

Classes of other packages are read only when the caller trusts the package by name, because its code
then runs with arguments that the file chooses.

Weights alone pass the first two checks, or are in a format that holds nothing else, and are loaded
into a network that is built by its name. A program of ``torch.export`` has checks of its own, in
`exported_programs`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from torch import nn
from torch.serialization import safe_globals

from vibfx.errors import ModelFileError
from vibfx.model_files.architectures import build
from vibfx.model_files.archive import Archive
from vibfx.model_files.exported_programs import read_program
from vibfx.model_files.kinds import Kind, kind_of
from vibfx.model_files.legacy import read_legacy
from vibfx.model_files.module_screen import check_module
from vibfx.model_files.pickle_screen import Allowed, allowed_globals
from vibfx.model_files.pretrained import download, is_name
from vibfx.model_files.refusals import OTHER_VERSION, SAVE_WHOLE, damaged, described
from vibfx.model_files.results import load
from vibfx.model_files.safetensors_files import read_safetensors
from vibfx.model_files.state_dicts import find_weights, load_weights
from vibfx.model_files.trust import Trust


def load_model(
    path: str | Path, *, trust: Sequence[str] = (), arch: str | None = None
) -> nn.Module:
    """Reads a model, without running code from its file.

    What is read:

    - A whole module that ``torch.save(model, path)`` wrote. Layers and models of torch and
      torchvision are read as they are. A model inside ``nn.DataParallel`` is unwrapped.
      ``DistributedDataParallel`` cannot be: rebuilding it needs a process group, so such a file is
      refused and the message says what to save in its place.
    - Weights, with ``arch`` for the network that they are of: a state dict that ``torch.save``
      wrote, now or before version 1.6, or a ``.safetensors`` file. In a checkpoint they may be
      under ``state_dict``, ``model`` and the like; averages of weights are taken where there are no
      others. ``module.`` before every name and ``_orig_mod`` in it are taken off. They must fit:
      all of them, and nothing else.
    - A program that ``torch.export.save`` wrote, and a folder that vibfx wrote (see ``load``), each
      as a graph.
    - ``torchvision:NAME@WEIGHTS`` and ``timm:NAME``: a trained network by its library's download.

    A file that was damaged is refused, as far as that can be told. Archives of ``torch.save`` and
    ``torch.export.save`` have checksums, unless those were switched off. The format from before
    torch 1.6 and ``.safetensors`` have none: there a flipped bit of a weight, or of a name in data
    that nobody asks for, passes for what was written, while every tensor still has the shape that
    it should, and consists of the file's bytes.

    Args:
        path: The file or folder to read, or a name.
        trust: Names of packages or modules whose classes and functions the file may use as well:
            ``mypkg`` stands for ``mypkg`` and ``mypkg.layers``, not for ``mypkgother``. They are
            imported, from the current directory too, and **the file may run their code**.
        arch: What network weights are of: ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:function``; see ``architectures.build``.

    Returns:
        The module, in eval mode and on the CPU.

    Raises:
        ModelFileError: The file is missing, unreadable, damaged, holds no model, does not fit
            ``arch``, or uses something that is neither a layer nor trusted; or the name is unknown,
            or its weights cannot be downloaded.
    """
    if isinstance(path, str) and is_name(path):
        if arch is not None:
            raise ModelFileError(
                "--arch says what network the weights in a file are of, and this is no file.",
                where=path,
                hint="Leave it out.",
            )
        return download(path)
    path = Path(path)
    if path.is_dir():
        if arch is not None:
            raise ModelFileError(
                "--arch is for a file that holds weights alone, and this is a folder.",
                where=str(path),
                hint="Leave it out.",
            )
        return load(path, trust=trust)
    try:
        return _load(path, Trust.of(trust), arch)
    except ModelFileError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise ModelFileError(error.what, where=where, hint=error.hint) from error.__cause__


def _load(path: Path, trust: Trust, arch: str | None) -> nn.Module:
    # One handle for every step, so that all of them see the same file.
    with _opened(path) as file:
        loaded = _read(file, path, trust)
    if not isinstance(loaded, nn.Module):
        return _network(loaded, arch)
    if arch is not None:
        raise ModelFileError(
            "The file holds a whole model, and --arch is for one that holds weights alone.",
            hint="Leave it out.",
        )
    return loaded.eval()


def _opened(path: Path) -> IO[bytes]:
    try:
        if not path.exists():
            raise ModelFileError("The model file does not exist.", hint="Check the path.")
        if not path.is_file():
            # A pipe or a device may never end.
            raise ModelFileError(
                "The path names a device, not a model file.", hint="Check the path."
            )
        return path.open("rb")
    except OSError as error:
        raise ModelFileError(
            f"The model file cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error


def _read(file: IO[bytes], path: Path, trust: Trust) -> object:
    """A module, or what else the file holds."""
    kind, archive = kind_of(file, path.suffix)
    if kind is Kind.LEGACY:
        return read_legacy(file)
    if kind is Kind.SAFETENSORS:
        return read_safetensors(path)
    assert archive is not None
    if kind is Kind.PROGRAM:
        with archive.checksums():
            return read_program(archive, trust)
    allowed = allowed_globals(archive, trust)
    with archive.checksums():
        loaded = _rebuilt(archive, allowed)
        if isinstance(loaded, nn.Module):
            return _checked(loaded, trust)
    return loaded


def _rebuilt(archive: Archive, allowed: Allowed) -> object:
    archive.file.seek(0)
    try:
        with safe_globals(allowed):
            loaded: object = torch.load(archive.file, map_location="cpu", weights_only=True)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"The file does not fit the installed torch {torch.__version__}: {described(error)}.",
            hint=OTHER_VERSION,
        ) from error
    except Exception as error:  # a damaged file can make any step of the rebuilding fail
        raise damaged(described(error)) from error
    return loaded


def _checked(model: nn.Module, trust: Trust) -> nn.Module:
    try:
        check_module(model, trust)
        return _unwrapped(model.eval())
    except RecursionError as error:
        raise ModelFileError(
            "The model contains itself, or is nested too deeply to be used.", hint=SAVE_WHOLE
        ) from error


def _unwrapped(model: nn.Module) -> nn.Module:
    while isinstance(model, nn.DataParallel):
        inner = model._modules.get("module")
        if inner is None:
            raise damaged("a DataParallel in it wraps no module")
        model = inner
    return model


def _network(loaded: object, arch: str | None) -> nn.Module:
    weights = find_weights(loaded)
    if weights is None:
        raise ModelFileError(
            f"The file holds an object of type {type(loaded).__name__}, not a module.",
            hint=SAVE_WHOLE,
        )
    if arch is None:
        raise ModelFileError(
            "The file holds weights without the model.",
            hint="Say what network they are of, such as --arch torchvision:resnet18, "
            "--arch timm:NAME or --arch package.module:function. Or save the whole module with "
            "torch.save(model, path).",
        )
    network = build(arch)
    load_weights(network, weights, arch)
    return network
