"""Files that hold a training run as it was at one moment, each written whole or not at all."""

import contextlib
import hashlib
import io
import logging
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vibfx.errors import CheckpointError

_log = logging.getLogger(__name__)

_MAGIC = b"vibfx checkpoint 1\n"

State = dict[str, Any]


class Checkpoint:
    """The newest state of a run on disk, and the one before it.

    A state is written beside the file, made durable, and renamed, so that a crash at any moment
    leaves a whole one; what is torn all the same is found by its SHA-256, and the one before it is
    used. Reading one runs no code: it holds tensors and plain values only.

    Args:
        path: The file; the one before it has ``.previous`` behind its name.
        run: What decides how the run goes on, such as target and seed, by name.
        every: Seconds from one state to the next.
    """

    def __init__(self, path: Path, run: Mapping[str, str], *, every: float = 60.0) -> None:
        self._path = path
        self._previous = path.with_name(path.name + ".previous")
        self._run = {name: str(value) for name, value in run.items()}
        self._every = every
        self._saved = time.monotonic()

    def exists(self) -> bool:
        """Whether any state was written."""
        return self._path.exists() or self._previous.exists()

    def is_due(self) -> bool:
        """Whether it is time to write the next state."""
        return time.monotonic() - self._saved >= self._every

    def save(self, state: State) -> None:
        """Write a state. Where the disk is full the last one stays, and the log has a warning."""
        self._saved = time.monotonic()
        content = io.BytesIO()
        torch.save({"run": self._run, "state": state}, content)
        payload = content.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        aside = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(_MAGIC + digest + b"\n" + payload)
                file.flush()
                os.fsync(file.fileno())
            if self._path.exists():
                self._path.replace(self._previous)
            aside.replace(self._path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            _log.warning("no checkpoint was written to %s: %s", self._path, error.strerror)

    def load(self) -> State | None:
        """The newest state that is whole; None where none was written.

        Raises:
            CheckpointError: None is whole, or it is of another run.
        """
        found = [path for path in (self._path, self._previous) if path.exists()]
        for path in found:
            content = _read(path)
            if content is None:
                _log.warning("%s is damaged", path)
                continue
            self._check_run(content["run"])
            state: State = content["state"]
            return state
        if found:
            raise CheckpointError(
                "no checkpoint here can be read",
                where=str(self._path),
                hint="Delete it and start without resuming.",
            )
        return None

    def remove(self) -> None:
        """Delete all states, and the folder if nothing else is in it."""
        self._path.unlink(missing_ok=True)
        self._previous.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()

    def _check_run(self, other: Mapping[str, str]) -> None:
        for name in {**self._run, **other}:
            mine, its = self._run.get(name), other.get(name)
            if mine != its:
                raise CheckpointError(
                    f"the checkpoint is of another run: {name} is {its} there and {mine} here",
                    where=str(self._path),
                    hint="Resume with the same model, data and options, or pass another folder.",
                )


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds; None if it is no checkpoint, or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC)
    digest, payload = content[head : head + 64], content[head + 65 :]
    if content[:head] != _MAGIC or hashlib.sha256(payload).hexdigest().encode() != digest:
        return None
    try:
        loaded: dict[str, Any] = torch.load(
            io.BytesIO(payload), map_location="cpu", weights_only=True
        )
    except pickle.UnpicklingError:  # something that no run here has written
        return None
    return loaded
