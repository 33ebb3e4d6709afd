"""Decides from a model file's pickle, without running it, which classes the file may use.

It may *name* layers of torch and torchvision and plain data, and it may *call* nothing but the few
functions that rebuild tensors and containers. Constructors are not among them: ``torch.save``
restores a module by creating it empty and handing it its attributes.
"""

import importlib
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.serialization import get_unsafe_globals_in_checkpoint

from vibfx.errors import ModelFileError
from vibfx.model_files.archive import Archive
from vibfx.model_files.pickle_walk import ITEM_SIZES, Global, PickleWalk
from vibfx.model_files.refusals import OTHER_VERSION, SAVE_WHOLE, damaged
from vibfx.model_files.trust import Trust, is_below

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
# _rebuild_from_type_v2, whose first argument PickleWalk therefore counts as called too.
_REBUILDERS = {
    "_codecs.encode",
    "builtins.complex",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
}

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


# As torch.serialization.safe_globals takes it.
Allowed = list[Callable[..., Any] | tuple[Callable[..., Any], str]]


def allowed_globals(archive: Archive, trust: Trust) -> Allowed:
    """Lists what torch's restricted unpickler must be allowed to use, so that the file loads.

    Args:
        archive: The archive.
        trust: The packages whose code may run.

    Returns:
        The layers, and code of trusted modules, that the file names, with their full names.

    Raises:
        ModelFileError: The file is damaged, or needs something else as well.
    """
    # torch.load reads the archive in the same way; a second zip reader could be shown another
    # pickle than the one that is loaded.
    walk = PickleWalk(archive.read("data.pkl"))
    needed = _beyond_tensors(archive, walk.named)
    # By name alone: nothing is imported for a file that is refused here.
    _check_explained(needed, trust)
    _check_origins(needed, trust)
    check_calls(walk, trust)
    _check_storages(walk, archive)
    return [(_look_up(wanted, trust), str(wanted)) for wanted in needed]


def check_data(archive: Archive) -> None:
    """Checks that an archive's pickle holds tensors and plain data, whoever unpickles it.

    Args:
        archive: The archive.

    Raises:
        ModelFileError: It holds something else, or is damaged.
    """
    walk = PickleWalk(archive.read("data.pkl"))
    if not names_data_only(walk):
        raise _unlisted(sorted((one for one in walk.named if not _is_of_data(one)), key=str))
    check_calls(walk, Trust())
    _check_storages(walk, archive)


def names_data_only(walk: PickleWalk) -> bool:
    """Whether a pickle names no class and no function but those of dense tensors."""
    return all(map(_is_of_data, walk.named))


def _is_of_data(found: Global) -> bool:
    is_dtype = isinstance(vars(torch).get(found.name), torch.dtype)
    known = {*ITEM_SIZES, *_REBUILDERS}
    return str(found) in known or (found.module == "torch" and is_dtype)


def _beyond_tensors(archive: Archive, named: Iterable[Global]) -> list[Global]:
    """What the file names beyond what torch's restricted unpickler reads of itself."""
    archive.file.seek(0)
    try:
        beyond = set(get_unsafe_globals_in_checkpoint(archive.file))
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise damaged("its pickle cannot be listed") from error
    return sorted((found for found in named if str(found) in beyond), key=str)


def _check_storages(walk: PickleWalk, archive: Archive) -> None:
    # torch reads as many bytes as the pickle says, whether or not the record has them.
    for storage in walk.storages.values():
        if archive.sizes.get(f"data/{storage.key}") != storage.size:
            raise damaged(
                f"its pickle asks for {storage.size:,} bytes that its record data/"
                f"{storage.key[:40]} does not have"
            )


def _check_explained(needed: Iterable[Global], trust: Trust) -> None:
    untrusted = {str(found) for found in needed if not trust.covers(found.module)}
    for name, (what, hint) in _EXPLAINED.items():
        if name in untrusted:
            raise ModelFileError(what, hint=hint)


def _check_origins(needed: Iterable[Global], trust: Trust) -> None:
    packages = (*_LAYER_PACKAGES, *trust.prefixes)
    strangers = [found for found in needed if not is_below(found.module, packages)]
    for stranger in strangers:
        if stranger.module == "__main__":
            raise ModelFileError(
                f"{stranger.name} was defined in the script that saved the model.",
                hint="Move it into a module that can be imported, save the model again, and trust "
                "that module with --trust.",
            )
    if strangers:
        raise _unlisted(strangers)


def check_calls(walk: PickleWalk, trust: Trust) -> None:
    """Checks that a pickle calls nothing but what rebuilds dense tensors.

    Args:
        walk: The pickle, followed.
        trust: The packages of which it may call anything.

    Raises:
        ModelFileError: It does.
    """
    # A tensor that is created empty and gets its state later takes whatever shape that says.
    tensors = {
        created
        for created in walk.created
        if is_below(created.module, ["torch"]) and not is_below(created.module, _LAYER_PACKAGES)
    }
    called = walk.called | tensors
    refused = sorted(
        str(function)
        for function in called
        if str(function) not in _REBUILDERS and not trust.covers(function.module)
    )
    if refused:
        raise ModelFileError(
            f"Loading the file would call {_listed(refused)}.",
            hint=f"A saved module calls nothing but what rebuilds dense tensors. {SAVE_WHOLE}",
        )


def _unlisted(strangers: Sequence[Global]) -> ModelFileError:
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


def _look_up(wanted: Global, trust: Trust) -> Any:
    if trust.covers(wanted.module):
        return trust.look_up(wanted.module, wanted.name)
    try:
        # vars, not getattr: a module may import or run something when asked for an attribute.
        value = vars(importlib.import_module(wanted.module))[wanted.name]
    except (ImportError, KeyError, ValueError) as error:
        package = wanted.module.partition(".")[0]
        raise ModelFileError(
            f"The file needs {wanted}, which the installed {package} does not have.",
            hint=OTHER_VERSION,
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
    return is_below(value.__module__, _LAYER_PACKAGES)
