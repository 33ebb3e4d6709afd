"""``load_data``: finds out which kind of data set is meant, and has it read."""

import re
from collections.abc import Sequence
from pathlib import Path

from vibfx.data.arrays import TORCHVISION, digits_set, in_memory, torchvision_set
from vibfx.data.batches import Normalization
from vibfx.data.folder import image_folder
from vibfx.data.function import from_function
from vibfx.data.npz import npz
from vibfx.data.request import FORMS, Data, Request
from vibfx.errors import DataError, InputError

_FUNCTION = re.compile(r"[\w.]+:\w+")


def load_data(
    spec: str,
    *,
    batch_size: int = 128,
    seed: int = 0,
    download: bool = False,
    input_shape: tuple[int, ...] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: bool | None = None,
) -> Data:
    """Load a classification data set.

    ``spec`` is one of

    - ``digits``: scikit-learn's 1,797 handwritten digits of 8x8 pixels, shape ``(1, 8, 8)``.
    - ``mnist:DIR``, ``fashion-mnist:DIR``, ``cifar10:DIR``, ``cifar100:DIR``: torchvision's, under
      its root folder.
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
    channels are shifted by a few pixels and mirrored at random; others where that is asked for, by
    less, and not mirrored.

    Args:
        spec: Which data.
        batch_size: Samples in a batch; a function sets its own.
        seed: Fixes order and augmentation; a function sets its own.
        download: Whether torchvision may fetch what is not there.
        input_shape: The shape of one sample that the model takes. The images of a folder are
            cut to it (3x224x224 if not given); all other samples must have it.
        mean: Subtracted from each channel of pixels in [0, 1], in place of the set's own.
        std: Divides each channel after that; goes with ``mean``.
        augment: Whether training images are shifted, cropped or mirrored, as said above; by default
            colour images in memory, and those of a folder.

    Returns:
        The three loaders, and what the classes and the preprocessing are.

    Raises:
        DataError: The data are missing, malformed or unfit for training.
        InputError: The batch size is not positive.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}", hint="it must be at least 1")
    normalization = _given_normalization(mean, std)
    request = Request(spec, batch_size, seed, download, input_shape, normalization, augment)
    kind, _, folder = spec.partition(":")
    if spec == "digits":
        return in_memory(digits_set(request), request)
    if kind in TORCHVISION and folder:
        return in_memory(torchvision_set(kind, folder, request), request)
    if spec.endswith(".npz"):
        return in_memory(npz(request), request)
    if Path(spec).expanduser().is_dir():
        return image_folder(Path(spec).expanduser(), request)
    if _FUNCTION.fullmatch(spec):
        return from_function(request)
    raise DataError(f"{spec!r} is no data set and no folder", hint=FORMS)


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
