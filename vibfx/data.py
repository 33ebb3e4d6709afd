"""Data sets: what the user names with one string becomes three loaders.

Every set is split three ways: the model is trained on ``train``, choices are made by
``validation``, and ``test`` is reported once.
"""

import importlib
import logging
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from vibfx.batches import (
    Batch,
    Loader,
    Normalization,
    SeededBatches,
    SeededSamples,
    TensorLoader,
    check_known_labels,
    check_shape,
    check_training_labels,
    check_two_classes,
    classes_seen,
    collate,
    describe,
    first_batch,
    hold_out,
)
from vibfx.errors import DataError, InputError

__all__ = ["Batch", "Data", "Loader", "Normalization", "TensorLoader", "load_data"]

_log = logging.getLogger(__name__)

_FORMS = """give one of
    digits                                        scikit-learn's 8x8 digits, vibfx[demo]
    mnist:DIR, fashion-mnist:DIR, cifar10:DIR     DIR is torchvision's root folder
    DIR                                           a folder of images with train/ and val/ in it
    FILE.npz                                      arrays x_train y_train x_test y_test
    package.module:function                       a function that returns the loaders"""

_TORCHVISION = {
    "mnist": ("MNIST", Normalization((0.1307,), (0.3081,))),
    "fashion-mnist": ("FashionMNIST", Normalization((0.2860,), (0.3530,))),
    "cifar10": ("CIFAR10", Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
}
_IMAGENET = {
    1: Normalization((0.449,), (0.226,)),  # the three colours' averages
    3: Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_FUNCTION = re.compile(r"[\w.]+:\w+")
_NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_NPZ_HINT = "write it with numpy.savez, from arrays of numbers or strings"
_CHANNELS = (1, 3, 4)
_PARTS = ("train", "validation", "test")
_DIGITS_TEST, _DIGITS_VALIDATION = 359, 180
_MOST_VALIDATION = 5_000
# Below this, starting processes takes longer than reading the images.
_WORTH_WORKERS = 256


@dataclass(frozen=True)
class Data:
    """A classification data set, split three ways.

    Attributes:
        name: What the user asked for, such as ``"digits"`` or ``"mnist:DIR"``.
        train: Shuffled anew each epoch; colour images are augmented.
        validation: To choose by; nothing is augmented.
        test: To be reported once; nothing is augmented.
        classes: The names of the classes, ``"0"`` and so on where they have none.
        preprocessing: How pixels in [0, 1] were normalized; None where they were not, or where
            a function of the user's made the batches.
    """

    name: str
    train: Loader
    validation: Loader
    test: Loader
    classes: tuple[str, ...]
    preprocessing: Normalization | None


@dataclass(frozen=True)
class _Request:
    """What the user asked for."""

    spec: str
    batch_size: int
    seed: int
    download: bool
    input_shape: tuple[int, ...] | None
    normalization: Normalization | None


@dataclass(frozen=True)
class _Arrays:
    """A data set in memory, of whose training samples ``validation`` are yet to be held out."""

    train: Batch
    test: Batch
    classes: tuple[str, ...]
    validation: int
    normalization: Normalization | None = None


def load_data(
    spec: str,
    *,
    batch_size: int = 128,
    seed: int = 0,
    download: bool = False,
    input_shape: tuple[int, ...] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Data:
    """Load a classification data set.

    ``spec`` is one of

    - ``digits``: scikit-learn's 1,797 handwritten digits of 8x8 pixels, shape ``(1, 8, 8)``.
    - ``mnist:DIR``, ``fashion-mnist:DIR``, ``cifar10:DIR``: torchvision's, under its root folder.
    - a folder of images: ``train/`` and ``val/`` with one folder a class; ``val/`` is the test set.
      Training crops are random in size and place, and mirrored half of the time.
    - ``FILE.npz`` with ``x_train y_train x_test y_test`` and perhaps ``label_names``. Images are
      uint8 NHWC, NHW or NCHW; float arrays, NCHW or features ND, are taken unscaled. Where uint8
      could be NHWC or NCHW, it is what fits ``input_shape``, or else NHWC.
    - ``package.module:function``: called without arguments, with the current folder importable. It
      returns loaders of float32 inputs and int64 labels: ``(train, test)``, or ``(train,
      validation, test)``, or a mapping with those keys. With only two, the second serves for
      validation as well, and a warning is logged. Only first batches are checked.

    Where there is no validation set, it is a tenth of the training samples, at most 5,000, in
    proportion to the classes and the same for every ``seed``. In memory, training images with three
    channels are shifted by a few pixels and mirrored at random.

    Args:
        spec: Which data.
        batch_size: Samples in a batch; a function sets its own.
        seed: Fixes order and augmentation; a function sets its own.
        download: Whether torchvision may fetch what is not there.
        input_shape: The shape of one sample that the model takes. The images of a folder are
            cut to it (3x224x224 if not given); all other samples must have it.
        mean: Subtracted from each channel of pixels in [0, 1], in place of the set's own.
        std: Divides each channel after that; goes with ``mean``.

    Returns:
        The three loaders, and what the classes and the preprocessing are.

    Raises:
        DataError: The data are missing, malformed or unfit for training.
        InputError: The batch size is not positive.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}", hint="it must be at least 1")
    normalization = _given_normalization(mean, std)
    request = _Request(spec, batch_size, seed, download, input_shape, normalization)
    kind, _, folder = spec.partition(":")
    if spec == "digits":
        return _in_memory(_digits(request), request)
    if kind in _TORCHVISION and folder:
        return _in_memory(_torchvision(kind, folder, request), request)
    if spec.endswith(".npz"):
        return _in_memory(_npz(request), request)
    if Path(spec).expanduser().is_dir():
        return _image_folder(Path(spec).expanduser(), request)
    if _FUNCTION.fullmatch(spec):
        return _from_function(request)
    raise DataError(f"{spec!r} is no data set and no folder", hint=_FORMS)


def _given_normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != len(std):
        raise DataError(
            f"mean {mean} and std {std} do not go together",
            hint="give both, with one value a channel",
        )
    if not all(value > 0 for value in std):
        raise DataError(f"std is {list(std)}", hint="every value must be above 0")
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))


def _normalization_for(channels: int, request: _Request) -> Normalization | None:
    """What the user gave, if it fits samples with so many channels."""
    given = request.normalization
    if given is not None and len(given.mean) != channels:
        raise DataError(
            f"mean and std are given for {len(given.mean)} channels, the samples have {channels}",
            where=request.spec,
            hint="give one value a channel",
        )
    return given


# --- sets that are read whole into memory


def _in_memory(arrays: _Arrays, request: _Request) -> Data:
    (x, y), (x_test, y_test) = arrays.train, arrays.test
    check_shape(x, request.input_shape, request.spec)
    normalization = _normalization_for(x.shape[1], request) or arrays.normalization
    loader = partial(TensorLoader, batch_size=request.batch_size, normalization=normalization)
    kept, held_out = hold_out(y, arrays.validation)
    train = loader(
        x[kept],
        y[kept],
        # Three channels are a photograph; a mirrored digit would be another digit, or none.
        augment=x.dim() == 4 and x.shape[1] == 3,
        shuffle=True,
        seed=request.seed,
    )
    return Data(
        name=request.spec,
        train=train,
        validation=loader(x[held_out], y[held_out]),
        test=loader(x_test, y_test),
        classes=arrays.classes,
        preprocessing=normalization,
    )


def _digits(request: _Request) -> _Arrays:
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
    return _Arrays(
        train=(x[rest], y[rest]),
        test=(x[test], y[test]),
        classes=_numbers(10),
        validation=_DIGITS_VALIDATION,
    )


def _torchvision(kind: str, folder: str, request: _Request) -> _Arrays:
    from torchvision import datasets

    name, normalization = _TORCHVISION[kind]
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
    return _Arrays(
        train=(_channels_first(train.data), y_train),
        test=(_channels_first(test.data), y_test),
        classes=tuple(train.classes),
        validation=_validation_count(len(y_train), request.spec),
        normalization=normalization,
    )


def _torchvision_error(name: str, root: Path, request: _Request, error: Exception) -> DataError:
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


def _channels_first(images: Any) -> Tensor:
    """NHW or NHWC as NCHW."""
    x = torch.as_tensor(images)
    return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def _validation_count(samples: int, spec: str) -> int:
    if samples < 3:
        raise DataError(
            f"there are only {samples} training samples",
            where=spec,
            hint="at least 3 are needed: one to hold out for validation, two to train on",
        )
    return min(_MOST_VALIDATION, max(1, samples // 10))


# --- FILE.npz


def _npz(request: _Request) -> _Arrays:
    spec = request.spec
    arrays = _read_npz(Path(spec).expanduser())
    missing = [name for name in _NPZ_ARRAYS if name not in arrays]
    if missing:
        raise DataError(
            f"the file lacks {', '.join(missing)}",
            where=spec,
            hint=f"it must hold the arrays {', '.join(_NPZ_ARRAYS)}",
        )
    train, test = (_npz_part(part, arrays, request) for part in ("train", "test"))
    x_train, x_test = train[0], test[0]
    if (x_train.dtype, x_train.shape[1:]) != (x_test.dtype, x_test.shape[1:]):
        raise DataError(
            f"x_train is {describe(x_train)}, x_test {describe(x_test)}",
            where=spec,
            hint="prepare both in the same way",
        )
    check_training_labels(train[1], spec)
    check_known_labels(test[1], "test", int(train[1].max()) + 1, spec)
    return _Arrays(
        train=train,
        test=test,
        classes=_npz_classes(arrays.get("label_names"), train[1], spec),
        validation=_validation_count(len(train[1]), spec),
    )


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError("there is no such file", where=str(file), hint="check the path")
    if not zipfile.is_zipfile(file):
        raise DataError("the file is no .npz archive", where=str(file), hint=_NPZ_HINT)
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = [name for name in (*_NPZ_ARRAYS, "label_names") if name in archive]
            return {name: archive[name] for name in names}
    # What numpy raises on arrays of objects, and on damaged archives.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"the file cannot be read: {error}", where=str(file), hint=_NPZ_HINT
        ) from error


def _npz_part(part: str, arrays: Mapping[str, np.ndarray], request: _Request) -> Batch:
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.size == 0:
        raise DataError(f"x_{part} is empty", where=request.spec, hint="give it samples")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"y_{part} is {y.dtype} of shape {y.shape}",
            where=request.spec,
            hint="labels are integers from 0, one a sample, in an array of one dimension",
        )
    inputs = _npz_bytes if x.dtype == np.uint8 else _npz_floats
    samples, labels = inputs(f"x_{part}", x, request), torch.from_numpy(y.astype(np.int64))
    if len(samples) != len(labels):
        raise DataError(
            f"x_{part} has {len(samples)} samples, y_{part} {len(labels)} labels",
            where=request.spec,
            hint="give every sample one label",
        )
    return samples, labels


def _npz_bytes(name: str, x: np.ndarray, request: _Request) -> Tensor:
    shape = x.shape[1:]
    as_last = shape[-1:] + shape[:-1]
    if len(shape) == 2:
        return _channels_first(x)
    if len(shape) == 3 and shape == request.input_shape:
        return torch.from_numpy(x)
    if len(shape) == 3 and (as_last == request.input_shape or shape[-1] in _CHANNELS):
        return _channels_first(x)
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return torch.from_numpy(x)
    raise DataError(
        f"{name} is uint8 of shape {x.shape}",
        where=request.spec,
        hint="uint8 images are NHW, or NHWC or NCHW with 1, 3 or 4 channels",
    )


def _npz_floats(name: str, x: np.ndarray, request: _Request) -> Tensor:
    if x.dtype.kind != "f" or x.ndim not in (2, 4):
        raise DataError(
            f"{name} is {x.dtype} of shape {x.shape}",
            where=request.spec,
            hint="inputs are uint8 images, or floats of shape NCHW (images) or ND (features)",
        )
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        tensor = torch.from_numpy(x.astype(np.float32))
    if not tensor.isfinite().all():
        raise DataError(
            f"{name} holds NaN or infinite values",
            where=request.spec,
            hint="replace them, or leave out the samples that have them",
        )
    return tensor


def _npz_classes(names: np.ndarray | None, y_train: Tensor, spec: str) -> tuple[str, ...]:
    count = int(y_train.max()) + 1
    if names is None:
        return _numbers(count)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count:
        raise DataError(
            f"label_names is {names.dtype} of shape {names.shape}",
            where=spec,
            hint=f"it must be one string for each of the {count} classes",
        )
    return tuple(names.astype(str).tolist())


# --- a folder of images


def _image_folder(folder: Path, request: _Request) -> Data:
    shape = request.input_shape or (3, 224, 224)
    if len(shape) != 3 or shape[0] not in _IMAGENET:
        raise DataError(
            f"images cannot be brought to the shape {shape}",
            where=request.spec,
            hint="the model must take (channels, height, width) with 1 or 3 channels",
        )
    normalization = _normalization_for(shape[0], request) or _IMAGENET[shape[0]]
    augmented, plain = _transforms(shape, normalization)
    train, test = (_read_folder(folder / part) for part in ("train", "val"))
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise DataError(
            f"val/ has classes that train/ has not: {', '.join(unknown)}",
            where=request.spec,
            hint="the folders in val/ must be named like those in train/",
        )
    labels = torch.tensor(train.targets)
    check_two_classes(set(train.targets), request.spec)
    # Both number their folders from 0, so a class that val/ lacks would move those after it.
    test.target_transform = [train.class_to_idx[name] for name in test.classes].__getitem__
    train.transform, test.transform = augmented, plain
    untouched = copy(train)
    untouched.transform = plain
    kept, held_out = hold_out(labels, _validation_count(len(labels), request.spec))
    return Data(
        name=request.spec,
        train=_training_loader(Subset(train, kept.tolist()), request),
        validation=_image_loader(Subset(untouched, held_out.tolist()), request),
        test=_image_loader(test, request),
        classes=tuple(train.classes),
        preprocessing=normalization,
    )


def _transforms(shape: tuple[int, ...], normalization: Normalization) -> tuple[Any, Any]:
    """The standard recipe: the transform to train with, and the one to evaluate with."""
    from torchvision import transforms

    channels, *size = shape
    finish = [transforms.ToTensor(), transforms.Normalize(normalization.mean, normalization.std)]
    if channels == 1:
        finish.insert(0, transforms.Grayscale())
    augmented = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    plain = [transforms.Resize(round(max(size) * 256 / 224)), transforms.CenterCrop(size)]
    return transforms.Compose(augmented + finish), transforms.Compose(plain + finish)


def _read_folder(folder: Path) -> Any:
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder.name}/",
            where=str(folder.parent),
            hint="images to train on go in train/CLASS/, images to test with in val/CLASS/",
        )
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(
            str(error), where=str(folder), hint="it must hold one folder of images a class"
        ) from error


def _training_loader(samples: Any, request: _Request) -> Loader:
    return DataLoader(
        SeededSamples(samples),
        batch_sampler=SeededBatches(len(samples), batch_size=request.batch_size, seed=request.seed),
        num_workers=_workers(len(samples)),
        collate_fn=collate,
    )


def _image_loader(samples: Any, request: _Request) -> Loader:
    return DataLoader(
        samples,
        batch_size=request.batch_size,
        num_workers=_workers(len(samples)),
        collate_fn=collate,
    )


def _workers(samples: int) -> int:
    return 0 if samples < _WORTH_WORKERS else min(4, os.cpu_count() or 1)


# --- package.module:function


def _from_function(request: _Request) -> Data:
    spec = request.spec
    if request.normalization is not None:
        raise DataError(
            "mean and std do not apply to the batches of a function",
            where=spec,
            hint="normalize inside the function",
        )
    train, validation, test = _three_loaders(_call(spec), spec)
    parts = {"training": train, "validation": validation, "test": test}
    firsts = {part: first_batch(loader, part, spec) for part, loader in parts.items()}
    for x, _ in firsts.values():
        check_shape(x, request.input_shape, request.spec)
    check_two_classes(classes_seen(train), spec)
    classes = getattr(getattr(train, "dataset", None), "classes", None)
    if not isinstance(classes, (list, tuple)):
        classes = _numbers(max(int(y.max()) for _, y in firsts.values()) + 1)
    for part, (_, y) in firsts.items():
        check_known_labels(y, part, len(classes), spec)
    return Data(spec, train, validation, test, tuple(map(str, classes)), preprocessing=None)


def _call(spec: str) -> Any:
    module_name, _, function_name = spec.partition(":")
    with _current_folder_importable():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise DataError(
                f"the module cannot be imported: {error}",
                where=spec,
                hint="it is looked for in the current folder, then among the installed packages;\n"
                f"  for anything else {_FORMS}",
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            raise DataError(
                f"{module_name} has no function {function_name}",
                where=spec,
                hint=f"the module was found at {getattr(module, '__file__', None)}",
            )
        return function()


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _three_loaders(result: Any, spec: str) -> tuple[Loader, Loader, Loader]:
    loaders = _loaders_in(result)
    if len(loaders) not in (2, 3):
        raise DataError(
            f"the function returned {_describe(result)} instead of loaders",
            where=spec,
            hint="return (train, test), (train, validation, test), or a mapping with those keys",
        )
    if len(loaders) == 2:
        _log.warning(
            "%s returned two loaders: choices are made by the test set too, so its results "
            "flatter; return (train, validation, test)",
            spec,
        )
    return loaders[0], loaders[1], loaders[-1]


def _loaders_in(result: Any) -> list[Any]:
    """The loaders in order; none where the result has not the right form."""
    if isinstance(result, Mapping):
        named = {"train", "test"} <= set(result) <= set(_PARTS)
        return [result[part] for part in _PARTS if part in result] if named else []
    return list(result) if isinstance(result, (tuple, list)) else []


def _describe(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a mapping with the keys {', '.join(map(str, result))}"
    if isinstance(result, (tuple, list)):
        return f"{len(result)} values"
    return f"an object of type {type(result).__name__}"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))
