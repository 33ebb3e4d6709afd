"""Values of options that several commands read."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from vibfx.errors import InputError
from vibfx.model_files import is_name

_TYPES = {"": torch.float32, "float": torch.float32, "int": torch.int64, "bool": torch.bool}

Norms = Annotated[
    Literal["exact", "freeze"],
    typer.Option(
        help="Norms and means that run across channels: exact rewrites them so that channels can "
        "go and the rest computes the same; freeze leaves them and their channels."
    ),
]

GateInputs = Annotated[
    bool,
    typer.Option(
        "--gate-inputs",
        help="Let features of the model's input go as well, such as pixels that an MLP reads.",
    ),
]

InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of one example, such as 3x224x224, or 128:int for 128 whole numbers "
        "(tokens); once for each input of the model.",
    ),
]

Mean = Annotated[
    str | None, typer.Option(help="Mean of each channel for images in [0, 1]: 0.5,0.5,0.5")
]

Std = Annotated[str | None, typer.Option(help="Standard deviation of each channel: 0.2,0.2,0.2")]

Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NETWORK",
        help="What network the weights in the file are of: torchvision:NAME, timm:NAME or "
        "package.module:function, perhaps with arguments: 'torchvision:resnet18(num_classes=10)'.",
        show_default=False,
    ),
]

Trust = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PREFIX",
        help="Allow classes of this package in the model file; loading may run its code.",
    ),
]


def title(model: str) -> str:
    """What a report calls a model: a file without its folder, or a name as it is."""
    return model if is_name(model) else Path(model).name


def stem(model: str) -> str:
    """What a folder for a model's results is called after: ``resnet18`` of a file or a name."""
    if is_name(model):
        return model.partition(":")[2].partition("@")[0].replace("/", "-")
    return Path(model).stem


def sizes(text: str) -> tuple[int, ...]:
    """The shape of one example, such as ``3x224x224``.

    Raises:
        InputError: The text is no shape.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--input {text!r} is no shape", hint="Write it as in 3x224x224.")
    return tuple(map(int, parts))


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """One number a channel, such as ``0.5,0.5,0.5``; None where nothing was passed.

    Raises:
        InputError: The text is no list of numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        hint = f"Write one number a channel, as in {option} 0.5,0.5,0.5."
        raise InputError(f"{option} {text!r} is no list of numbers", hint=hint) from None


def example(text: str) -> Tensor:
    """Two examples of an input, such as ``3x224x224`` or ``128:int``.

    Raises:
        InputError: The text is no shape, or names no type.
    """
    shape, _, kind = text.partition(":")
    if kind not in _TYPES:
        named = ", ".join(f":{name}" for name in _TYPES if name)
        raise InputError(
            f"--input {text!r} names no type of number",
            hint=f"What may follow the shape is {named}.",
        )
    return torch.zeros(2, *(sizes(shape) if shape or not kind else ()), dtype=_TYPES[kind])
