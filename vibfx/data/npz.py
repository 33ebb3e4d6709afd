"""``FILE.npz``: reads the arrays, and refuses what cannot be trained on."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vibfx.data.checks import check_known_labels, check_training_labels, describe
from vibfx.data.request import (
    Arrays,
    Request,
    channels_first,
    kind_of,
    numbers,
    validation_count,
)
from vibfx.errors import DataError

_NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_NPZ_HINT = "write it with numpy.savez, from arrays of numbers or strings"
_CHANNELS = (1, 3, 4)


def npz(request: Request) -> Arrays:
    """The arrays of a ``FILE.npz``, checked and as NCHW or ND."""
    spec = request.spec
    arrays = _read_npz(Path(spec).expanduser())
    if not {"y_train", "y_test"} & set(arrays) and "x_train" in arrays:
        return _unlabelled(arrays, request)
    missing = [name for name in _NPZ_ARRAYS if name not in arrays]
    if missing:
        raise DataError(
            f"the file lacks {', '.join(missing)}",
            where=spec,
            hint=f"it must hold the arrays {', '.join(_NPZ_ARRAYS)}, or no labels at all",
        )
    (x, y), (x_test, y_test) = (_npz_part(part, arrays, request) for part in ("train", "test"))
    _check_alike("x", x, x_test, spec)
    _check_alike("y", y, y_test, spec)
    classes: tuple[str, ...] = ()
    if kind_of(y) == "classes":
        check_training_labels(y, spec)
        check_known_labels(y_test, "test", int(y.max()) + 1, spec)
        classes = _npz_classes(arrays.get("label_names"), y, spec)
    validation = validation_count(len(y), spec)
    return Arrays((x, y), (x_test, y_test), classes, validation)


def _unlabelled(arrays: Mapping[str, np.ndarray], request: Request) -> Arrays:
    x = _npz_inputs("x_train", arrays["x_train"], request)
    test = None
    if "x_test" in arrays:
        test = (_npz_inputs("x_test", arrays["x_test"], request), None)
        _check_alike("x", x, test[0], request.spec)
    return Arrays((x, None), test, (), validation_count(len(x), request.spec))


def _check_alike(name: str, train: Tensor, test: Tensor, spec: str) -> None:
    if (train.dtype, train.shape[1:]) != (test.dtype, test.shape[1:]):
        raise DataError(
            f"{name}_train is {describe(train)}, {name}_test {describe(test)}",
            where=spec,
            hint="prepare both in the same way",
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


def _npz_part(
    part: str, arrays: Mapping[str, np.ndarray], request: Request
) -> tuple[Tensor, Tensor]:
    y = arrays[f"y_{part}"]
    samples = _npz_inputs(f"x_{part}", arrays[f"x_{part}"], request)
    if y.dtype.kind == "f" and y.ndim:
        labels = _npz_floats(f"y_{part}", y, request)
    elif y.dtype.kind in "iu" and y.ndim == 1:
        labels = torch.from_numpy(y.astype(np.int64))
    else:
        raise DataError(
            f"y_{part} is {y.dtype} of shape {y.shape}",
            where=request.spec,
            hint="classes are integers from 0, one a sample, in an array of one dimension; values "
            "are floats",
        )
    if len(samples) != len(labels):
        raise DataError(
            f"x_{part} has {len(samples)} samples, y_{part} {len(labels)} labels",
            where=request.spec,
            hint="give every sample one label",
        )
    return samples, labels


def _npz_inputs(name: str, x: np.ndarray, request: Request) -> Tensor:
    if x.size == 0:
        raise DataError(f"{name} is empty", where=request.spec, hint="give it samples")
    if x.dtype == np.uint8:
        return _npz_bytes(name, x, request)
    if x.dtype.kind != "f" or x.ndim < 2:
        raise DataError(
            f"{name} is {x.dtype} of shape {x.shape}",
            where=request.spec,
            hint="inputs are uint8 images, or floats of any shape with the examples first",
        )
    return _npz_floats(name, x, request)


def _npz_bytes(name: str, x: np.ndarray, request: Request) -> Tensor:
    shape = x.shape[1:]
    as_last = shape[-1:] + shape[:-1]
    if len(shape) == 2:
        return channels_first(x)
    if len(shape) == 3 and shape == request.input_shape:
        return torch.from_numpy(x)
    if len(shape) == 3 and (as_last == request.input_shape or shape[-1] in _CHANNELS):
        return channels_first(x)
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return torch.from_numpy(x)
    raise DataError(
        f"{name} is uint8 of shape {x.shape}",
        where=request.spec,
        hint="uint8 images are NHW, or NHWC or NCHW with 1, 3 or 4 channels",
    )


def _npz_floats(name: str, x: np.ndarray, request: Request) -> Tensor:
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
        return numbers(count)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count:
        raise DataError(
            f"label_names is {names.dtype} of shape {names.shape}",
            where=spec,
            hint=f"it must be one string for each of the {count} classes",
        )
    return tuple(names.astype(str).tolist())
