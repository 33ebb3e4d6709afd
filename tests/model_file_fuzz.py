"""Damages model files at random and has them read; in a process that they may take down.

    python model_file_fuzz.py COUNT FORMAT...

Prints one line of JSON a format. What ends it is no line: a crash with its traceback, a case that
takes longer than ``SECONDS``, or more than ``MEMORY``.

A result is right if it is the network that was written, or if that cannot be told, because nothing
in the file says otherwise: numbers may then be other ones **of the file's bytes**, and the graph of
a program another graph of known operators. That is so in formats without checksums, and where the
checksums were made anew after the damage, as whoever changes a file on purpose would.
"""

import contextlib
import faulthandler
import io
import json
import random
import resource
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from model_file_helpers import lenet, program, records_of
from safetensors.torch import save
from torch import nn

from vibfx.errors import VibfxError
from vibfx.model_files import load_model

SECONDS = 60
MEMORY = 8 * 2**30  # of addresses, most of which are libraries

ARCH = "model_file_helpers:lenet"


def saved(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def exported() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return program(Path(folder) / "model.pt2").read_bytes()


def without_checksums() -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return saved(lenet().state_dict())
    finally:
        torch.serialization.set_crc32_options(True)


FORMATS: dict[str, tuple[str, str | None, Callable[[], bytes]]] = {
    "module": ("pt", None, lambda: saved(lenet())),
    "state-dict": ("pt", ARCH, lambda: saved(lenet().state_dict())),
    "unchecked": ("pt", ARCH, without_checksums),
    "legacy": (
        "th",
        ARCH,
        lambda: saved(lenet().state_dict(), _use_new_zipfile_serialization=False),
    ),
    "safetensors": ("safetensors", ARCH, lambda: save(lenet().state_dict())),
    "program": ("pt2", None, exported),
}
CHECKED = ("module", "state-dict", "program")


# --- damage -------------------------------------------------------------------------------------


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def spliced(content: bytes, chance: random.Random) -> bytes:
    """A piece goes, comes a second time or makes way for random bytes."""
    start, length = chance.randrange(len(content)), chance.choice([1, 2, 8, 64])
    source = chance.randrange(len(content))
    piece = chance.choice([b"", content[source : source + length], chance.randbytes(length)])
    return content[:start] + piece + content[start + chance.choice([0, length]) :]


DAMAGES = (flipped, flipped, flipped, truncated, spliced, spliced)


def near_the_start(damage: Callable[[bytes, random.Random], bytes]) -> Callable[..., bytes]:
    """Where descriptions are: of most files, nearly all is weights."""

    def damaged(content: bytes, chance: random.Random) -> bytes:
        return damage(content[:2000], chance) + content[2000:]

    return damaged


def inside(content: bytes, chance: random.Random) -> bytes:
    """An archive with one damaged record, and its right checksum."""
    records = records_of_bytes(content)
    names = [name for name in records if records[name]]
    described = [name for name in names if name.endswith((".pkl", ".json", ".pt"))]
    name = chance.choice(described if chance.random() < 0.8 else names)
    records[name] = chance.choice(DAMAGES)(records[name], chance)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, record in records.items():
            file.writestr(f"archive/{name}", record)
    return buffer.getvalue()


def records_of_bytes(content: bytes) -> dict[str, bytes]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return records_of(Path(file.name))


def damaged(kind: str, content: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """A damaged file, and whether its checksums, if it has any, are those of what is there now."""
    if kind in CHECKED and chance.random() < 0.5:
        return inside(content, chance), True
    damage = chance.choice(DAMAGES)
    damage = near_the_start(damage) if chance.random() < 0.5 else damage
    return damage(content, chance), kind not in CHECKED


# --- what came of it ----------------------------------------------------------------------------


def check(found: nn.Module, whole: nn.Module, content: bytes, *, is_rewritten: bool) -> None:
    own, theirs = found.state_dict(), whole.state_dict()
    if not is_rewritten:
        assert str(found) == str(whole)
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) for name in own)
        return
    widths = {tensor.element_size() for tensor in own.values()}
    pieces = {w: {content[at : at + w] for at in range(len(content) - w + 1)} for w in widths}
    for name, tensor in own.items():
        width = tensor.element_size()
        raw = tensor.detach().contiguous().numpy().tobytes()
        strange = {raw[start : start + width] for start in range(0, len(raw), width)} - pieces[
            width
        ]
        assert strange <= {bytes(width)}, f"{name} holds numbers that the file does not"


def run(kind: str, count: int, folder: Path) -> Counter[str]:
    torch.manual_seed(0)
    suffix, arch, make = FORMATS[kind]
    content = make()
    path = folder / f"model.{suffix}"
    path.write_bytes(content)
    whole = load_model(path, arch=arch)
    chance, outcomes = random.Random(0), Counter[str]()
    for number in range(count):
        changed, is_rewritten = damaged(kind, content, chance)
        path.write_bytes(changed)
        signal.alarm(SECONDS)
        try:
            found = load_model(path, arch=arch)
        except VibfxError:
            outcomes["refused"] += 1
        except BaseException:
            path.rename(Path(tempfile.gettempdir()) / f"fuzz-{kind}-{number}.{suffix}")
            raise
        else:
            check(found, whole, changed, is_rewritten=is_rewritten)
            outcomes["read"] += 1
        signal.alarm(0)
    assert {file.name for file in folder.iterdir()} == {path.name}
    return outcomes


def main() -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    count, *kinds = sys.argv[1:]
    for kind in kinds or FORMATS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outcomes = run(kind, int(count), Path(folder))
        sys.stdout.write(json.dumps({"format": kind, **outcomes}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
