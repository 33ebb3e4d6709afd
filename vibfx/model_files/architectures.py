"""``--arch``: builds the network that weights are of, and downloads nothing."""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from vibfx.errors import InputError, ModelFileError
from vibfx.importing import current_folder_importable, import_function
from vibfx.model_files.refusals import described
from vibfx.silence import silenced

FORMS = (
    "Write --arch torchvision:resnet18, --arch 'timm:resnet18(num_classes=10)' or "
    "--arch package.module:function."
)
"""What may be passed, as a sentence."""

# With these, the libraries would fetch weights, or read another file.
_WEIGHTS = (
    *("weights", "weights_backbone", "pretrained", "pretrained_backbone"),
    *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"),
)


def build(arch: str) -> nn.Module:
    """Builds a network with weights that are still random.

    Args:
        arch: ``torchvision:NAME``, ``timm:NAME`` or ``package.module:function``, which may have
            arguments behind it, by name and literal: ``torchvision:resnet18(num_classes=10)``.

    Returns:
        The network, in eval mode.

    Raises:
        ModelFileError: There is no such network, or it cannot be built.
    """
    name, arguments = _parsed(arch)
    builder = _builder(name, arguments)
    try:
        with silenced(), current_folder_importable():
            network = builder(**arguments)
    except Exception as error:  # the network's own code decides what it raises
        raise ModelFileError(
            f"The network cannot be built: {described(error)}.", where=arch, hint=FORMS
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelFileError(
            f"{name} returns an object of type {type(network).__name__}, not a module.",
            where=arch,
            hint="Name a function that returns the network.",
        )
    return network.eval()


def check_torchvision(name: str) -> None:
    """Checks that torchvision has a network.

    Args:
        name: Such as ``resnet18``.

    Raises:
        ModelFileError: It has none of that name.
    """
    from torchvision import models

    if name not in (known := models.list_models()):
        raise _unknown(f"torchvision:{name}", "torchvision", name, known)


def check_timm(name: str) -> None:
    """Checks that timm has a network.

    Args:
        name: Such as ``resnet18``, or ``resnet18.a1_in1k``, with a tag of its weights.

    Raises:
        ModelFileError: It has none of that name, or is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelFileError(
            "timm is not installed.", where=f"timm:{name}", hint="Install it with pip install timm."
        ) from error
    if not timm.is_model(name):
        raise _unknown(f"timm:{name}", "timm", name, timm.list_models())


def _unknown(where: str, library: str, name: str, known: Iterable[str]) -> ModelFileError:
    close = difflib.get_close_matches(name, list(known), n=3)
    hint = f"There is {', '.join(close)}." if close else f"See {library}'s list_models()."
    return ModelFileError(f"{library} has no network {name}.", where=where, hint=hint)


def _parsed(arch: str) -> tuple[str, dict[str, Any]]:
    name, opening, rest = arch.strip().partition("(")
    if ":" not in name or (opening and not rest.endswith(")")):
        raise ModelFileError(f"{arch!r} is no architecture.", hint=FORMS)
    if not opening:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("only arguments by name, each once, can be passed")
        # A dictionary as **arguments has no name.
        given = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords if one.arg}
        if len(given) < len(call.keywords):
            raise ValueError("only arguments by name, each once, can be passed")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ModelFileError(
            f"The arguments of {arch!r} cannot be read: {described(error)}.",
            hint="Write them by name, as numbers, strings, lists: (num_classes=10, width=0.5).",
        ) from error
    return name, given


def _builder(name: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    library, _, network = name.partition(":")
    if library not in ("torchvision", "timm"):
        try:
            return import_function(name)
        except InputError as error:
            raise ModelFileError(error.what, where=name, hint=f"{error.hint}; {FORMS}") from error
    if fetched := sorted(arguments.keys() & set(_WEIGHTS)):
        raise ModelFileError(
            f"--arch builds a network for the weights of a file, so it takes no {fetched[0]}.",
            where=name,
            hint="Leave it out.",
        )
    return _of_timm(network) if library == "timm" else _of_torchvision(network)


def _of_timm(name: str) -> Callable[..., Any]:
    check_timm(name)
    import timm

    return lambda **arguments: timm.create_model(name, pretrained=False, **arguments)


def _of_torchvision(name: str) -> Callable[..., Any]:
    check_torchvision(name)
    from torchvision import models

    builder = models.get_model_builder(name)
    # A detector would fetch weights of its backbone.
    none = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    return lambda **arguments: builder(**dict.fromkeys(none), **arguments)
