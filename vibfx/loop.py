"""One plain training loop for both phases: device, precision, seed, progress, Ctrl-C."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vibfx.data import Loader
from vibfx.errors import InputError
from vibfx.passes.set_mode import SetMode

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
) -> Outcome:
    """Train a graph in place; afterwards it is in evaluation mode and on the CPU.

    Args:
        module: The graph.
        loader: Batches ``(x, labels)``, iterated once an epoch.
        phase: The optimizer, and what comes on top of the cross-entropy.
        epochs: At most so many, whatever the phase has planned.
        device: Where to train.
        seed: Of noise and dropout.
        on_progress: Called about twice a second.
    """
    torch.manual_seed(seed)
    module.to(device)
    SetMode(training=True)(module)
    meter = _Meter(phase, len(loader), on_progress)
    interrupted = False
    try:
        for epoch in range(1, epochs + 1):
            if _epoch(module, loader, phase, meter, device, epoch):
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        SetMode(training=False)(module)
        module.to("cpu")
    meter.report()
    return Outcome(interrupted, meter.step, meter.loss, meter.seconds)


def _epoch(
    module: fx.GraphModule,
    loader: Loader,
    phase: Phase,
    meter: "_Meter",
    device: torch.device,
    epoch: int,
) -> bool:
    """One pass over the data; returns whether the phase is complete."""
    for x, labels in loader:
        x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
            outputs = module(x)
        loss = F.cross_entropy(outputs.float(), labels)
        phase.optimizer.zero_grad(set_to_none=True)
        (loss + phase.penalty()).backward()
        phase.optimizer.step()
        complete = phase.after_step(meter.step + 1)
        meter.add(epoch, loss.detach(), outputs.detach(), labels)
        if complete:
            return True
    return False


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
        self._start = self._reported = time.monotonic()
        self._epoch = 1
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._seen = 0

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
        self.seconds, self._reported = now - self._start, now
        if not self._losses:
            return
        self.loss = float(torch.stack(self._losses).mean())
        accuracy = float(torch.stack(self._hits).sum()) / self._seen
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
