"""What passes between the readers of data sets: the request, what they return, small helpers."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vibfx.data.batches import Loader, Normalization
from vibfx.errors import DataError

FORMS = """give one of
    digits                                        scikit-learn's 8x8 digits, vibfx[demo]
    mnist:DIR, fashion-mnist:DIR                  DIR is torchvision's root folder
    cifar10:DIR, cifar100:DIR
    DIR                                           a folder of images with train/ and val/ in it,
                                                  without labels: of images
    FILE.npz                                      arrays x_train y_train x_test y_test
                                                  without labels: x_train, and perhaps x_test
    package.module:function                       a function that returns the loaders"""
"""What a message says about the forms that a ``spec`` may have."""

_MOST_VALIDATION = 5_000


Labels = Literal["classes", "values", "none"]
"""What the labels are: whole numbers from 0, floats, or nothing."""

Samples = tuple[Tensor, Tensor | None]
"""Inputs ``(N, ...)`` and their labels ``(N, ...)``, if there are any."""


def kind_of(labels: Tensor | None) -> Labels:
    """What labels are, by their type."""
    if labels is None:
        return "none"
    return "values" if labels.is_floating_point() else "classes"


@dataclass(frozen=True)
class Data:
    """A data set, split three ways.

    Attributes:
        name: What the user asked for, such as ``"digits"`` or ``"mnist:DIR"``.
        train: Shuffled anew each epoch; images may be augmented.
        validation: To choose by; nothing is augmented.
        test: To be reported once; nothing is augmented.
        classes: The names of the classes, ``"0"`` and so on where they have none; empty where the
            labels are no classes.
        preprocessing: How pixels in [0, 1] were normalized; None where they were not, or where
            a function of the user's made the batches.
        labels: What the labels are.
        caution: What to know of it before trusting a result; empty where there is nothing.
    """

    name: str
    train: Loader
    validation: Loader
    test: Loader
    classes: tuple[str, ...]
    preprocessing: Normalization | None
    labels: Labels = "classes"
    caution: str = ""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    spec: str
    batch_size: int
    seed: int
    download: bool
    input_shape: tuple[int, ...] | None
    normalization: Normalization | None
    augment: bool | None = None


@dataclass(frozen=True)
class Arrays:
    """A data set in memory, of whose training samples ``validation`` are yet to be held out.

    Without a test set, as many are held out for that.
    """

    train: Samples
    test: Samples | None
    classes: tuple[str, ...]
    validation: int
    normalization: Normalization | None = None


def normalization_for(channels: int, request: Request) -> Normalization | None:
    """What the user gave, if it fits samples with so many channels."""
    given = request.normalization
    if given is not None and len(given.mean) != channels:
        raise DataError(
            f"mean and std are given for {len(given.mean)} channels, the samples have {channels}",
            where=request.spec,
            hint="give one value a channel",
        )
    return given


def validation_count(samples: int, spec: str) -> int:
    """How many of so many training samples to hold out; refuses fewer than three."""
    if samples < 3:
        raise DataError(
            f"there are only {samples} training samples",
            where=spec,
            hint="at least 3 are needed: one to hold out for validation, two to train on",
        )
    return min(_MOST_VALIDATION, max(1, samples // 10))


def channels_first(images: Any) -> Tensor:
    """NHW or NHWC as NCHW."""
    x = torch.as_tensor(images)
    return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def numbers(count: int) -> tuple[str, ...]:
    """The names of classes that have none: ``"0"``, ``"1"`` and so on."""
    return tuple(map(str, range(count)))
