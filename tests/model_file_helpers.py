"""What the tests of model files share: small models, handmade archives and attacks.

An attack would create the file ``mark`` in the folder that holds the model file.
"""

import os
import random
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files import load_model

MINIMUM = {"byteorder": sys.byteorder.encode(), "version": b"3\n"}


class Reduced:
    """Pickles as a call of a function, or as whatever else ``__reduce__`` may return."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def shell_attack(folder: Path) -> Reduced:
    return Reduced(os.system, (f"touch '{folder / 'mark'}'",))


def lenet(classes: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 12 * 12, classes),
    )


def small_model() -> Any:
    return nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.DataParallel(nn.ReLU()))


def saved(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def archive(pickled: bytes, path: Path, records: Mapping[str, bytes] = MINIMUM) -> Path:
    """An archive like torch.save's around a pickle that no torch.save would write."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {**records, "data.pkl": pickled}.items():
            file.writestr(f"archive/{name}", content)
    return path


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The same with one or three flipped bits, or cut short."""
    if chance.random() < 0.2:
        return content[: chance.randrange(1, len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def refused(path: Path, **options: Any) -> ModelFileError:
    """The error that load_model raises, once it is sure that no attack got through."""
    with pytest.raises(ModelFileError) as caught:
        load_model(path, **options)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert not (path.parent / "mark").exists()
    return caught.value


def survives(path: Path) -> nn.Module | None:
    """The model, if the file loads; if not, load_model must have refused it properly."""
    try:
        return load_model(path)
    except ModelFileError:
        return None
    finally:
        assert not (path.parent / "mark").exists()
