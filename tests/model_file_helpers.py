"""What the tests of model files share: small models, handmade archives and attacks.

An attack would create the file ``mark`` in the folder that holds the model file.
"""

import json
import os
import random
import sys
import zipfile
from collections.abc import Callable, Mapping
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


class Small(nn.Module):
    """A network with everything in it that a program holds: weights, buffers and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(4).expand(2, 4))
        self.shift = torch.ones(4)

    def forward(self, x: Any) -> Any:
        hidden = torch.relu_(self.norm(self.conv(x))).mean((2, 3))
        return self.head(hidden) * self.scale[0] + self.shift


def program(path: Path, model: nn.Module | None = None, *shape: int) -> Path:
    """The program of a network, with its batch open, as ``torch.export.save`` writes it."""
    torch.manual_seed(0)
    inputs = (torch.randn(*(shape or (2, 3, 8, 8))),)
    batch = torch.export.Dim("batch")
    made = torch.export.export((model or Small()).eval(), inputs, dynamic_shapes=({0: batch},))
    torch.export.save(made, path)
    return path


PROGRAM = "models/model.json"


def rewritten(path: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """The same archive with other records, and their right checksums."""
    records = records_of(path)
    change(records)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            file.writestr(f"model/{name}", content)
    return path


def described(path: Path, change: Callable[[Any], Any], record: str = PROGRAM) -> Path:
    """The same program with another description."""

    def edit(records: dict[str, bytes]) -> None:
        description = json.loads(records[record])
        change(description)
        records[record] = json.dumps(description).encode()

    return rewritten(path, edit)


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
