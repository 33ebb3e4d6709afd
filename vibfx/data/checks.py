"""The checks that samples, labels and loaders must pass."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from vibfx.data.batches import Loader, inputs_and_labels
from vibfx.errors import DataError

_LABELS = (torch.int64, torch.float32)


def check_shape(x: Tensor, expected: tuple[int, ...] | None, where: str) -> None:
    """Refuse samples that have not the shape the model takes, if that is known."""
    shape = tuple(x.shape[1:])
    if expected is not None and shape != tuple(expected):
        raise DataError(
            f"the samples have the shape {shape}, the model takes {tuple(expected)}",
            where=where,
            hint="give samples of that shape, or give their shape as the input shape",
        )


def check_two_classes(classes: Collection[int], where: str) -> None:
    """Refuse to train a classifier on one class."""
    if len(classes) < 2:
        raise DataError(
            f"the training set has one class: {', '.join(map(str, classes))}",
            where=where,
            hint="training a classifier takes samples of at least two",
        )


def check_training_labels(labels: Tensor, where: str) -> None:
    """Refuse all labels of a training set that do not count classes from 0."""
    check_two_classes(set(labels.tolist()), where)
    if int(labels.min()) != 0:
        raise DataError(
            f"the training labels start at {int(labels.min())}",
            where=where,
            hint="number the classes from 0",
        )


def check_known_labels(labels: Tensor, part: str, classes: int, where: str) -> None:
    """Refuse labels of classes that are not trained on; ``part`` says whose labels they are."""
    strange = labels[(labels < 0) | (labels >= classes)]
    if len(strange):
        raise DataError(
            f"the {part} labels include {int(strange[0])}, the training set has "
            f"the classes 0 to {classes - 1}",
            where=where,
            hint="number the classes from 0, and leave out samples of any other class",
        )


def first_batch(loader: Any, part: str, where: str) -> tuple[Tensor, Tensor | None]:
    """Refuse what cannot serve as a loader, going by its form and its first batch.

    Args:
        loader: What a function of the user's returned.
        part: What it is for, such as ``"training"``.
        where: What to say where the fault is.

    Returns:
        The inputs and the labels of the first batch.
    """
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise DataError(
            f"the {part} loader ({type(loader).__name__}) cannot be iterated every epoch",
            where=where,
            hint="return a torch DataLoader or a list of batches",
        )
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            f"the {part} loader does not say how many batches it has",
            where=where,
            hint="give it, or its data set, a __len__",
        ) from error
    if count == 0:
        raise DataError(f"the {part} loader is empty", where=where, hint="give it samples")
    return _checked_batch(next(iter(loader), None), part, where)


def _checked_batch(batch: Any, part: str, where: str) -> tuple[Tensor, Tensor | None]:
    parts = [batch] if isinstance(batch, Tensor) else batch
    if (
        not isinstance(parts, (tuple, list))
        or len(parts) not in (1, 2)
        or not all(isinstance(tensor, Tensor) for tensor in parts)
    ):
        raise DataError(
            f"the {part} batches are not pairs of tensors",
            where=where,
            hint="yield (inputs, labels), or inputs alone where there are no labels",
        )
    x, y = inputs_and_labels(parts)
    if x.numel() == 0:
        raise DataError(f"the first {part} batch is empty", where=where, hint="leave it out")
    if x.dtype != torch.float32 or x.dim() < 2:
        raise DataError(
            f"the {part} batches have inputs {describe(x)}",
            where=where,
            hint="inputs are float32 with a batch dimension",
        )
    if y is not None and (y.dtype not in _LABELS or y.shape[:1] != x.shape[:1]):
        raise DataError(
            f"the {part} batches have inputs {describe(x)} and labels {describe(y)}",
            where=where,
            hint="labels are int64 for classes or float32 for values, as many as inputs",
        )
    return x, y


def classes_seen(loader: Loader) -> set[int]:
    """The classes in the first batch, or in as many batches as it takes to see two."""
    classes: set[int] = set()
    for batch in islice(loader, len(loader)):
        _, y = inputs_and_labels(batch)
        classes.update([] if y is None else y.unique().tolist())
        if len(classes) > 1:
            break
    return classes


def describe(x: Tensor) -> str:
    """A tensor's type and shape, for a message."""
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
