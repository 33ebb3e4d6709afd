"""A folder of images: read file by file, in worker processes where that pays."""

import os
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vibfx.data.batches import (
    Loader,
    Normalization,
    SeededBatches,
    SeededSamples,
    collate,
    hold_out,
)
from vibfx.data.checks import check_two_classes
from vibfx.data.request import Data, Request, normalization_for, validation_count
from vibfx.errors import DataError

_IMAGENET = {
    1: Normalization((0.449,), (0.226,)),  # the three colours' averages
    3: Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Below this, starting processes takes longer than reading the images.
_WORTH_WORKERS = 256


def image_folder(folder: Path, request: Request) -> Data:
    """The loaders of a folder of images; what they read is not held in memory."""
    shape = request.input_shape or (3, 224, 224)
    if len(shape) != 3 or shape[0] not in _IMAGENET:
        raise DataError(
            f"images cannot be brought to the shape {shape}",
            where=request.spec,
            hint="the model must take (channels, height, width) with 1 or 3 channels",
        )
    normalization = normalization_for(shape[0], request) or _IMAGENET[shape[0]]
    augmented, plain = _transforms(shape, normalization)
    augmented = plain if request.augment is False else augmented
    if not (folder / "train").is_dir() and (files := _images_in(folder)):
        return _unlabelled(files, augmented, plain, normalization, request)
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
    kept, held_out = hold_out(labels, validation_count(len(labels), request.spec))
    return Data(
        name=request.spec,
        train=_training_loader(Subset(train, kept.tolist()), request),
        validation=_image_loader(Subset(untouched, held_out.tolist()), request),
        test=_image_loader(test, request),
        classes=tuple(train.classes),
        preprocessing=normalization,
    )


class _Images(Dataset[Any]):
    """Image files without labels.

    Args:
        files: The files.
        transform: What makes a tensor of an image.
    """

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], Tensor]) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Tensor:
        from torchvision.datasets.folder import default_loader

        return self._transform(default_loader(self._files[number]))


def _images_in(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names."""
    from torchvision.datasets.folder import is_image_file

    return sorted(p for p in folder.rglob("*") if p.is_file() and is_image_file(p.name))


def _unlabelled(
    files: Sequence[Path],
    augmented: Any,
    plain: Any,
    normalization: Normalization,
    request: Request,
) -> Data:
    """Loaders of images alone: as many are held out for the test as for validation."""
    count = validation_count(len(files), request.spec)
    rest, test = hold_out(torch.zeros(len(files)), count)
    kept, held_out = hold_out(torch.zeros(len(rest)), count)
    untouched = _Images(files, plain)
    return Data(
        name=request.spec,
        train=_training_loader(Subset(_Images(files, augmented), rest[kept].tolist()), request),
        validation=_image_loader(Subset(untouched, rest[held_out].tolist()), request),
        test=_image_loader(Subset(untouched, test.tolist()), request),
        classes=(),
        preprocessing=normalization,
        labels="none",
    )


def _transforms(shape: tuple[int, ...], normalization: Normalization) -> tuple[Any, Any]:
    """The standard recipe: the transform to train with, and the one to evaluate with."""
    from torchvision.transforms import v2 as transforms

    channels, *size = shape
    finish = [
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(normalization.mean, normalization.std),
    ]
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
            hint="images to train on go in train/CLASS/, images to test with in val/CLASS/; images "
            "without labels go in any folder that has no train/",
        )
    try:
        return ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(
            str(error), where=str(folder), hint="it must hold one folder of images a class"
        ) from error


def _training_loader(samples: Any, request: Request) -> Loader:
    return DataLoader(
        SeededSamples(samples),
        batch_sampler=SeededBatches(len(samples), batch_size=request.batch_size, seed=request.seed),
        num_workers=_workers(len(samples)),
        persistent_workers=_workers(len(samples)) > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
    )


def _image_loader(samples: Any, request: Request) -> Loader:
    return DataLoader(
        samples,
        batch_size=request.batch_size,
        num_workers=_workers(len(samples)),
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
    )


def _workers(samples: int) -> int:
    if samples < _WORTH_WORKERS:
        return 0
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return min(4, len(allowed(0)) if allowed else os.cpu_count() or 1)
