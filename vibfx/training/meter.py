"""How a training run is going: loss, accuracy, speed; and whether it has left all bounds."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")

_REPORT_EVERY = 0.5  # seconds

# So many times the first losses (or 1, where they are smaller) is no training any more.
_OUT_OF_BOUNDS = 1000.0


@dataclass(frozen=True)
class Progress:
    """How far a phase has come, for whoever shows it.

    Attributes:
        phase: The phase's name.
        epoch: The current epoch, from 1.
        epochs: How many the phase is planned to have.
        step: How many steps are done.
        done: Share of the phase's steps that are done, from 0 to 1.
        loss: Mean data term since the last report.
        accuracy: Training accuracy since the last report, from 0 to 1; nan where the labels are no
            classes.
        units_left: Units whose gates are open.
        units: All units.
        flops_left: Share of multiply-accumulates left.
        rate: Examples a second since the last report.
        waiting: Share of the time since then that was spent waiting for data, from 0 to 1.
        seconds_left: Expected time until the phase ends.
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    done: float
    loss: float
    accuracy: float
    units_left: int
    units: int
    flops_left: float
    rate: float
    waiting: float
    seconds_left: float


OnProgress = Callable[[Progress], None]


class Measured(Protocol):
    """What a phase of training tells about itself."""

    name: str
    epochs: int
    units: int

    def left(self) -> tuple[int, float]:
        """Units left, and the share of multiply-accumulates left."""


class Diverged(Exception):  # noqa: N818  (caught where the layer can be named)
    """The loss is no number, or has left all bounds.

    Attributes:
        step: The step, from 1.
        loss: The loss there.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(step, loss)
        self.step, self.loss = step, loss


class Meter:
    """Adds up loss and accuracy on the device, and reports now and then."""

    def __init__(self, phase: Measured, steps: int, on_progress: OnProgress | None) -> None:
        self.step, self.loss, self.seconds = 0, float("nan"), 0.0
        self._phase, self._steps = phase, max(phase.epochs * steps, 1)
        self._on_progress = on_progress
        self.start = self._reported = time.monotonic()
        self._epoch = 1
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._seen = 0
        self._waited = 0.0
        self._bound = math.inf

    def waiting_for(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; how long each is waited for is added up."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - start
            yield batch

    def go_on(self, step: int, loss: float, seconds: float) -> None:
        """Count on from where a run was left."""
        self.step, self.loss, self.seconds = step, loss, seconds
        self.start -= seconds

    def add(self, epoch: int, examples: int, loss: Tensor, right: Tensor | None) -> None:
        """Take note of a step: its data term, and the share of labels that are met."""
        self.step += 1
        self._epoch = epoch
        self._losses.append(loss)
        if right is not None:
            self._right.append(right * examples)
        self._seen += examples
        if time.monotonic() - self._reported >= _REPORT_EVERY:
            self.report()

    def report(self) -> None:
        """Only here are numbers fetched from the device.

        Raises:
            Diverged: A loss since the last report is no number, or out of bounds.
        """
        now = time.monotonic()
        since = now - self._reported
        self.seconds, self._reported = now - self.start, now
        if not self._losses:
            return
        losses = torch.stack(self._losses)
        self._check(losses)
        self.loss = float(losses.mean())
        right = float(torch.stack(self._right).sum()) if self._right else math.nan
        accuracy = right / self._seen
        rate = self._seen / max(since, 1e-9)
        waiting = min(self._waited / max(since, 1e-9), 1.0)
        self._losses, self._right, self._seen, self._waited = [], [], 0, 0.0
        if self._on_progress is None:
            return
        units_left, flops_left = self._phase.left()
        done = min(self.step / self._steps, 1.0)
        self._on_progress(
            Progress(
                phase=self._phase.name,
                epoch=self._epoch,
                epochs=self._phase.epochs,
                step=self.step,
                done=done,
                loss=self.loss,
                accuracy=accuracy,
                units_left=units_left,
                units=self._phase.units,
                flops_left=flops_left,
                rate=rate,
                waiting=waiting,
                seconds_left=self.seconds * (1 / done - 1),
            )
        )

    def _check(self, losses: Tensor) -> None:
        if math.isinf(self._bound):
            first = float(losses[0])
            self._bound = _OUT_OF_BOUNDS * max(first, 1.0) if math.isfinite(first) else math.inf
        bad = ~(losses < self._bound)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            step = self.step - len(self._losses) + at + 1
            self._losses = []
            raise Diverged(step, float(losses[at]))
