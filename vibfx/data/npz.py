"""``FILE.npz``: reads the arrays, and refuses what cannot be trained on."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vibfx.data.batches import Batch
from vibfx.data.checks import check_known_labels, check_training_labels, describe
from vibfx.data.request import Arrays, Request, channels_first, numbers, validation_count
from vibfx.errors import DataError

_NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_NPZ_HINT = "write it with numpy.savez, from arrays of numbers or strings"
_CHANNELS = (1, 3, 4)


def npz(request: Request) -> Arrays:
    """The arrays of a ``FILE.npz``, checked and as NCHW or ND."""
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
    return Arrays(
        train=train,
        test=test,
        classes=_npz_classes(arrays.get("label_names"), train[1], spec),
        validation=validation_count(len(train[1]), spec),
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


def _npz_part(part: str, arrays: Mapping[str, np.ndarray], request: Request) -> Batch:
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
    if x.dtype.kind != "f" or x.ndim < 2:
        raise DataError(
            f"{name} is {x.dtype} of shape {x.shape}",
            where=request.spec,
            hint="inputs are uint8 images, or floats of any shape with the examples first",
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
        return numbers(count)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count:
        raise DataError(
            f"label_names is {names.dtype} of shape {names.shape}",
            where=spec,
            hint=f"it must be one string for each of the {count} classes",
        )
    return tuple(names.astype(str).tolist())
