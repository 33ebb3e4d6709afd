"""What a run tells of itself: lines of JSON in a file, and TensorBoard's events."""

import datetime
import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from vibfx.errors import InputError
from vibfx.training.meter import Progress

Told = TypeVar("Told")

_log = logging.getLogger(__name__)


class JsonLines:
    """A file to which every stage and every report of progress adds a line.

    A line is an object with ``time`` (ISO 8601, UTC) and either ``stage``, the stage that begins,
    or the fields of ``Progress``; a number that is none is null. The file is begun with the first
    report, so that a run that is refused before it trains leaves none. A full disk costs lines, not
    the run.

    Args:
        path: The file.
        resume: Whether to go on with it; else it begins anew.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self._path = path
        self._mode = "a" if resume else "w"
        self._begun = False
        self._lines = ""

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._add({"stage": name})

    def progress(self, state: Progress) -> None:
        """Training has come further."""
        self._begun = True
        self._add({name: _finite(value) for name, value in asdict(state).items()})

    def _add(self, fields: dict[str, Any]) -> None:
        now = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="milliseconds")
        self._lines += json.dumps({"time": now, **fields}) + "\n"
        if not self._begun:
            return
        try:
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write(self._lines)
            self._lines, self._mode = "", "a"
        except OSError as error:
            _log.warning("nothing was added to %s: %s", self._path, error.strerror)


# What TensorBoard shows over the steps of a phase.
_CURVES = ("loss", "accuracy", "units_left", "flops_left", "rate", "waiting")


class TensorBoard:
    """Events that TensorBoard shows: the curves of each phase over its steps.

    Args:
        folder: Where they go.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise InputError(
                "TensorBoard is not installed", hint='pip install "vibfx[tensorboard]"'
            ) from error
        self._folder = folder
        self._writer: Any = None

    def progress(self, state: Progress) -> None:
        """Training has come further."""
        if self._writer is None:
            self._writer = self._module.SummaryWriter(str(self._folder))
        for name in _CURVES:
            self._writer.add_scalar(f"{state.phase}/{name}", getattr(state, name), state.step)
        self._writer.flush()


def to_all(*listeners: Callable[[Told], object]) -> Callable[[Told], None]:
    """One function that tells several."""

    def tell(told: Told) -> None:
        for listener in listeners:
            listener(told)

    return tell


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0.0 else value
