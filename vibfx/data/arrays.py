"""Sets that are read whole into memory: the digits, torchvision's, and the loaders over arrays."""

from functools import partial
from pathlib import Path

import torch

from vibfx.data.batches import Normalization, TensorLoader, hold_out
from vibfx.data.checks import check_known_labels, check_shape, check_training_labels
from vibfx.data.request import (
    Arrays,
    Data,
    Request,
    Samples,
    channels_first,
    kind_of,
    normalization_for,
    numbers,
    validation_count,
)
from vibfx.errors import DataError

TORCHVISION = {
    "mnist": ("MNIST", Normalization((0.1307,), (0.3081,))),
    "fashion-mnist": ("FashionMNIST", Normalization((0.2860,), (0.3530,))),
    "cifar10": ("CIFAR10", Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
    "cifar100": ("CIFAR100", Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
}
"""For each set, its class in ``torchvision.datasets`` and its usual normalization."""

_DIGITS_TEST, _DIGITS_VALIDATION = 359, 180


def in_memory(arrays: Arrays, request: Request) -> Data:
    """The loaders of a set in memory, whose training samples are split here."""
    train, test = arrays.train, arrays.test
    check_shape(train[0], request.input_shape, request.spec)
    normalization = normalization_for(train[0].shape[1], request) or arrays.normalization
    loader = partial(TensorLoader, batch_size=request.batch_size, normalization=normalization)
    if test is None:
        train, test = _split(train, arrays.validation)
    (x, y), validation = _split(train, arrays.validation)
    training = loader(
        x,
        y,
        augment=x.dim() == 4 and (x.shape[1] == 3 if request.augment is None else request.augment),
        shuffle=True,
        seed=request.seed,
    )
    return Data(
        name=request.spec,
        train=training,
        validation=loader(*validation),
        test=loader(*test),
        classes=arrays.classes,
        preprocessing=normalization,
        labels=kind_of(y),
    )


def _split(samples: Samples, count: int) -> tuple[Samples, Samples]:
    x, y = samples
    alike = torch.zeros(len(x))  # where there are no classes to be in proportion to
    kept, held_out = hold_out(alike if y is None or y.is_floating_point() else y, count)
    if y is None:
        return (x[kept], None), (x[held_out], None)
    return (x[kept], y[kept]), (x[held_out], y[held_out])


def digits_set(request: Request) -> Arrays:
    """scikit-learn's handwritten digits, as float32 ``(N, 1, 8, 8)`` in [0, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed",
            where=request.spec,
            hint="pip install 'vibfx[demo]'",
        ) from error
    digits = load_digits()
    x = torch.from_numpy(digits.images).to(torch.float32).div_(16).unsqueeze(1)
    y = torch.from_numpy(digits.target).to(torch.int64)
    rest, test = hold_out(y, _DIGITS_TEST)
    return Arrays(
        train=(x[rest], y[rest]),
        test=(x[test], y[test]),
        classes=numbers(10),
        validation=_DIGITS_VALIDATION,
    )


def torchvision_set(kind: str, folder: str, request: Request) -> Arrays:
    """One of torchvision's sets, a key of ``TORCHVISION``, from its root folder."""
    from torchvision import datasets

    name, normalization = TORCHVISION[kind]
    root = Path(folder).expanduser()
    try:
        train, test = (
            getattr(datasets, name)(root, train=part, download=request.download)
            for part in (True, False)
        )
    # What torchvision's readers raise on files that are missing, and on damaged ones.
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError) as error:
        raise _torchvision_error(name, root, request, error) from error
    y_train, y_test = torch.as_tensor(train.targets), torch.as_tensor(test.targets)
    check_training_labels(y_train, request.spec)
    check_known_labels(y_test, "test", len(train.classes), request.spec)
    return Arrays(
        train=(channels_first(train.data), y_train),
        test=(channels_first(test.data), y_test),
        classes=tuple(train.classes),
        validation=validation_count(len(y_train), request.spec),
        normalization=normalization,
    )


def _torchvision_error(name: str, root: Path, request: Request, error: Exception) -> DataError:
    if request.download:
        reason = " ".join(str(error).split())
        return DataError(
            f"{name} could not be downloaded or read: {reason}",
            where=request.spec,
            hint="check the network connection, and remove damaged files from the folder",
        )
    return DataError(
        f"{name} is not in {root}, or its files are damaged",
        where=request.spec,
        hint="name torchvision's root folder, or pass --download to fetch the files into this one",
    )
