"""What kind of file this is, from how it begins and what its archive holds."""

import pickle
from collections.abc import Collection
from enum import Enum, auto
from typing import IO

from vibfx.errors import ModelFileError
from vibfx.model_files.archive import Archive
from vibfx.model_files.legacy import is_legacy
from vibfx.model_files.refusals import SAVE_WHOLE, unreadable_pickle
from vibfx.model_files.safetensors_files import is_safetensors

_HEAD = 64


class Kind(Enum):
    """The formats that are read."""

    PICKLE = auto()
    PROGRAM = auto()
    LEGACY = auto()
    SAFETENSORS = auto()


def kind_of(file: IO[bytes], suffix: str) -> tuple[Kind, Archive | None]:
    """Which format a file has.

    Args:
        file: The file.
        suffix: How its name ends.

    Returns:
        The format; and the archive, where it is one.

    Raises:
        ModelFileError: It has none that is read; the message says what to do instead.
    """
    head = file.read(_HEAD)
    if suffix == ".onnx":
        raise ModelFileError(
            "The file is an ONNX model, which is already exported.",
            hint="Pass the PyTorch model it came from, saved with torch.save(model, path).",
        )
    if head.startswith(b"PK\x03\x04"):
        archive = Archive.of(file)
        kind = _kind_of_archive(archive.sizes.keys())
        archive.check()
        return kind, archive
    if not head:
        raise ModelFileError("The model file is empty.", hint=SAVE_WHOLE)
    if is_safetensors(head, suffix):
        return Kind.SAFETENSORS, None
    if is_legacy(head):
        return Kind.LEGACY, None
    if head.startswith(pickle.PROTO):
        raise unreadable_pickle()
    raise ModelFileError("The file is not a model that torch.save wrote.", hint=SAVE_WHOLE)


def _kind_of_archive(records: Collection[str]) -> Kind:
    if "serialized_exported_program.json" in records:
        raise ModelFileError(
            "The file is a program of torch.export from before torch 2.8.",
            hint="Export the module again, or save it with torch.save(model, path).",
        )
    if "constants.pkl" in records:
        raise ModelFileError(
            "The file is a TorchScript program.",
            hint="Save the eager module it was made from with torch.save(model, path).",
        )
    if "archive_format" in records:
        return Kind.PROGRAM
    if "data.pkl" in records:
        return Kind.PICKLE
    raise ModelFileError(
        "The file is a zip archive that torch.save did not write.", hint=SAVE_WHOLE
    )
