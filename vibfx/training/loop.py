"""One plain training loop for both phases: device, precision, seed, progress, stop and go on."""

import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vibfx.copying import each_tensor
from vibfx.data import Batch, Loader
from vibfx.errors import InputError
from vibfx.passes.set_mode import SetMode
from vibfx.training.checkpoint import Checkpoint, State
from vibfx.training.resuming import Stop, random_state, set_epoch, set_random_state, stopped_by

_REPORT_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Progress:
    """How far a phase has come, for whoever shows it.

    Attributes:
        phase: The phase's name.
        epoch: The current epoch, from 1.
        epochs: How many the phase is planned to have.
        done: Share of the phase's steps that are done, from 0 to 1.
        loss: Mean data term since the last report.
        accuracy: Training accuracy since the last report, from 0 to 1.
        units_left: Units whose gates are open.
        units: All units.
        flops_left: Share of multiply-accumulates left.
        rate: Examples a second since the last report.
        seconds_left: Expected time until the phase ends.
    """

    phase: str
    epoch: int
    epochs: int
    done: float
    loss: float
    accuracy: float
    units_left: int
    units: int
    flops_left: float
    rate: float
    seconds_left: float


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """How a phase ended.

    Attributes:
        interrupted: Whether Ctrl-C ended it early.
        steps: How many optimizer steps were made.
        loss: Mean data term of the last report; nan if there was none.
        seconds: How long it took.
    """

    interrupted: bool
    steps: int
    loss: float
    seconds: float


class Phase(Protocol):
    """What differs between training with gates and without."""

    name: str
    optimizer: torch.optim.Optimizer
    epochs: int  # as planned; it may take less, or more up to a limit
    units: int

    def penalty(self) -> Tensor | float:
        """What is added to the data term."""

    def after_step(self, step: int) -> bool:
        """Called after step ``step`` (from 1); returns whether the phase is complete."""

    def left(self) -> tuple[int, float]:
        """Units left, and the share of multiply-accumulates left."""

    def state(self) -> State:
        """What a checkpoint has to hold beside tensors and optimizer: tensors and plain values."""

    def load_state(self, state: State) -> None:
        """Go on from there; gives the graph its shape of then, before its tensors are filled in."""


def choose_device(name: str | None = None) -> torch.device:
    """The device by this name, or CUDA where there is one, or the CPU.

    Raises:
        InputError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"there is no device {name!r} here", hint="Leave --device out.") from error
    return device


def fit(
    module: fx.GraphModule,
    loader: Loader,
    phase: Phase,
    *,
    epochs: int,
    device: torch.device,
    seed: int,
    on_progress: OnProgress | None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a graph in place; afterwards it is in evaluation mode and on the CPU.

    Args:
        module: The graph.
        loader: Batches ``(x, labels)``, iterated once an epoch. Where it, its sampler or its batch
            sampler has a ``set_epoch``, that is called first, with the epoch from 0.
        phase: The optimizer, and what comes on top of the cross-entropy.
        epochs: At most so many, whatever the phase has planned.
        device: Where to train.
        seed: Of noise and dropout.
        on_progress: Called about twice a second.
        checkpoint: Where to write the state now and then, when asked to stop (Ctrl-C, SIGTERM) and
            at the end. What it holds already is gone on with, to the same result.

    Raises:
        SystemExit: After a SIGTERM, when the state is written.
        CheckpointError: What the checkpoint holds cannot be gone on with.
    """
    torch.manual_seed(seed)
    module.to(device)
    SetMode(training=True)(module)
    meter = _Meter(phase, len(loader), on_progress)
    run = _Run(module, loader, phase, meter, device, checkpoint)
    try:
        with stopped_by(signal.SIGINT, signal.SIGTERM) as stop:
            interrupted = run.train(epochs, stop)
    finally:
        SetMode(training=False)(module)
        module.to("cpu")
    meter.report()
    return Outcome(interrupted, meter.step, meter.loss, meter.seconds)


class _Run:
    """One training run, which can be left and gone on with between any two steps."""

    def __init__(
        self,
        module: fx.GraphModule,
        loader: Loader,
        phase: Phase,
        meter: "_Meter",
        device: torch.device,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._module, self._loader, self._phase = module, loader, phase
        self._meter, self._device, self._checkpoint = meter, device, checkpoint
        self._epoch, self._batch, self._complete = 1, 0, False
        self._at_start = self._now = random_state(device)
        if checkpoint is not None and (state := checkpoint.load()) is not None:
            self._load_state(state)

    def train(self, epochs: int, stop: Stop) -> bool:
        """Go through the data; returns whether Ctrl-C ended it."""
        try:
            while self._epoch <= epochs and not self._complete and not stop.asked:
                self._rest_of_epoch(stop)
        except KeyboardInterrupt:
            stop.asked = signal.SIGINT
        except RuntimeError:
            if not stop.asked:  # else it is the workers that feed the loader, stopped as well
                raise
        self._complete = not stop.asked
        self._save()
        if stop.asked == signal.SIGTERM:
            sys.exit(128 + stop.asked)
        return bool(stop.asked)

    def _rest_of_epoch(self, stop: Stop) -> None:
        """Go on with an epoch until it ends, the phase does, or somebody asks to stop."""
        for x, labels in self._batches():
            self._complete = self._step(x, labels)
            self._batch += 1
            if self._complete or stop.asked:
                return
            if self._checkpoint is not None and self._checkpoint.is_due():
                self._save()
        self._epoch, self._batch = self._epoch + 1, 0

    def _batches(self) -> Iterator[Batch]:
        """The batches of an epoch from where the run stands."""
        set_epoch(self._loader, self._epoch - 1)
        if not self._batch:
            self._at_start = random_state(self._device)
            return iter(self._loader)
        set_random_state(self._at_start)
        left = itertools.islice(self._loader, self._batch, None)
        first = next(left, None)
        set_random_state(self._now)
        return left if first is None else itertools.chain([first], left)

    def _step(self, x: Tensor, labels: Tensor) -> bool:
        """One step of the optimizer; returns whether the phase is complete."""
        device = self._device
        x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
            outputs = self._module(x)
        loss = F.cross_entropy(outputs.float(), labels)
        self._phase.optimizer.zero_grad(set_to_none=True)
        (loss + self._phase.penalty()).backward()
        self._phase.optimizer.step()
        complete = self._phase.after_step(self._meter.step + 1)
        self._meter.add(self._epoch, loss.detach(), outputs.detach(), labels)
        return complete

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.save(
            {
                "epoch": self._epoch,
                "batch": self._batch,
                "complete": self._complete,
                "step": self._meter.step,
                "loss": self._meter.loss,
                "seconds": time.monotonic() - self._meter.start,
                "random_at_start": self._at_start,
                "random": random_state(self._device),
                "phase": self._phase.state(),
                "tensors": {name: t.detach() for name, t in each_tensor(self._module)},
                "optimizer": self._phase.optimizer.state_dict(),
            }
        )

    def _load_state(self, state: State) -> None:
        self._epoch, self._batch = state["epoch"], state["batch"]
        self._complete = state["complete"]
        self._meter.go_on(state["step"], state["loss"], state["seconds"])
        self._at_start, self._now = state["random_at_start"], state["random"]
        set_random_state(self._now)
        self._phase.load_state(state["phase"])
        with torch.no_grad():
            for name, tensor in each_tensor(self._module):
                tensor.copy_(state["tensors"][name])
        self._phase.optimizer.load_state_dict(state["optimizer"])


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16, so that it pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


class _Meter:
    """Adds up loss and accuracy on the device, and reports now and then."""

    def __init__(self, phase: Phase, steps: int, on_progress: OnProgress | None) -> None:
        self.step, self.loss, self.seconds = 0, float("nan"), 0.0
        self._phase, self._steps = phase, max(phase.epochs * steps, 1)
        self._on_progress = on_progress
        self.start = self._reported = time.monotonic()
        self._epoch = 1
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._seen = 0

    def go_on(self, step: int, loss: float, seconds: float) -> None:
        """Count on from where a run was left."""
        self.step, self.loss, self.seconds = step, loss, seconds
        self.start -= seconds

    def add(self, epoch: int, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        self.step += 1
        self._epoch = epoch
        self._losses.append(loss)
        self._hits.append((outputs.argmax(dim=1) == labels).sum())
        self._seen += labels.numel()
        if time.monotonic() - self._reported >= _REPORT_EVERY:
            self.report()

    def report(self) -> None:
        """Only here are numbers fetched from the device."""
        now = time.monotonic()
        since = now - self._reported
        self.seconds, self._reported = now - self.start, now
        if not self._losses:
            return
        self.loss = float(torch.stack(self._losses).mean())
        accuracy = float(torch.stack(self._hits).sum()) / self._seen
        rate = self._seen / max(since, 1e-9)
        self._losses, self._hits, self._seen = [], [], 0
        if self._on_progress is None:
            return
        units_left, flops_left = self._phase.left()
        done = min(self.step / self._steps, 1.0)
        self._on_progress(
            Progress(
                phase=self._phase.name,
                epoch=self._epoch,
                epochs=self._phase.epochs,
                done=done,
                loss=self.loss,
                accuracy=accuracy,
                units_left=units_left,
                units=self._phase.units,
                flops_left=flops_left,
                rate=rate,
                seconds_left=self.seconds * (1 / done - 1),
            )
        )


def accuracy(
    module: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> float:
    """Share of examples whose largest output is the label's, from 0 to 1.

    Args:
        module: A graph in evaluation mode; it comes back on the CPU.
        loader: Batches ``(x, labels)``.
        device: Where to run.
    """
    module.to(device)
    right = seen = 0
    with torch.no_grad():
        for x, labels in loader:
            chosen = module(x.to(device)).argmax(dim=1)
            right += int((chosen == labels.to(device)).sum())
            seen += labels.numel()
    module.to("cpu")
    return right / max(seen, 1)
