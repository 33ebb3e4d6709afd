"""A folder of images: read file by file, in worker processes where that pays."""

import os
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

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
            hint="images to train on go in train/CLASS/, images to test with in val/CLASS/",
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
    return 0 if samples < _WORTH_WORKERS else min(4, os.cpu_count() or 1)
