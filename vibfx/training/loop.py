"""One plain training loop for all phases: step by step, to stop and to go on with."""

import itertools
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, fx

from vibfx.copying import each_tensor
from vibfx.data import Batch, Loader, inputs_and_labels
from vibfx.passes.set_mode import SetMode
from vibfx.training.checkpoint import Checkpoint, State
from vibfx.training.denormals import flushed
from vibfx.training.divergence import divergence
from vibfx.training.engine import Engine, Hardware
from vibfx.training.meter import Diverged, Meter, OnProgress
from vibfx.training.objectives import Objective
from vibfx.training.ranks import current
from vibfx.training.recording import recorded
from vibfx.training.resuming import (
    Stop,
    mixed,
    random_state,
    set_epoch,
    set_random_state,
    stopped_by,
)

# After so many steps several processes ask each other whether one was told to stop.
_AGREE_EVERY = 10


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

    def then(self, later: "Outcome") -> "Outcome":
        """This and what followed, as one."""
        return replace(later, steps=self.steps + later.steps, seconds=self.seconds + later.seconds)


class Phase(Protocol):
    """What differs between training with gates and without."""

    name: str
    optimizer: torch.optim.Optimizer
    epochs: int  # at most
    units: int

    def penalty(self) -> Tensor | float:
        """What is added to the data term."""

    def after_step(self) -> None:
        """Called after each step of the optimizer."""

    def is_over(self) -> bool:
        """Whether it ends here, before the last of its epochs."""

    def left(self) -> tuple[int, float]:
        """Units left, and the share of multiply-accumulates left."""

    def state(self) -> State:
        """What a checkpoint has to hold beside tensors and optimizer: tensors and plain values."""

    def load_state(self, state: State) -> None:
        """Go on from there; gives the graph its shape of then, before its tensors are filled in."""


def fit(
    module: fx.GraphModule,
    loader: Loader,
    phase: Phase,
    *,
    objective: Objective,
    hardware: Hardware,
    seed: int,
    on_progress: OnProgress | None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a graph in place; afterwards it is in evaluation mode and on the CPU.

    Args:
        module: The graph.
        loader: Batches ``(x, labels)`` or ``x`` alone, iterated once an epoch. Where it, its
            sampler or its batch sampler has a ``set_epoch``, that is called first, with the epoch
            from 0.
        phase: The optimizer, what comes on top of the data term, and how long it takes.
        objective: The data term.
        hardware: What to train on, and how.
        seed: Of noise and dropout.
        on_progress: Called about twice a second.
        checkpoint: Where to write the state now and then, when asked to stop (Ctrl-C, SIGTERM) and
            at the end. What it holds already is gone on with, to the same result.

    Raises:
        SystemExit: After a SIGTERM, when the state is written.
        CheckpointError: What the checkpoint holds cannot be gone on with.
        DivergenceError: The loss became no number, or a thousand times what it was. Where there is
            a checkpoint, the graph is what it was there.
    """
    engine = Engine(module, hardware)
    SetMode(training=True)(module)
    engine.take_in(loader)
    torch.manual_seed(mixed(seed, current().rank))  # each process draws noise of its own
    module.to(engine.device)
    objective.to(engine.device)
    loader, data_term = recorded(loader, objective, engine, phase.epochs)
    meter = Meter(phase, len(loader), on_progress)
    run = _Run(module, loader, phase, data_term, meter, engine, seed, checkpoint)
    try:
        with stopped_by(signal.SIGINT, signal.SIGTERM) as stop, flushed():
            interrupted = run.train(stop)
    except Diverged as found:
        error = divergence(module, run.x, found)
        run.roll_back()
        raise error from None
    finally:
        SetMode(training=False)(module)
        module.to("cpu")
        objective.to("cpu")
    return Outcome(interrupted, meter.step, meter.loss, meter.seconds)


class _Run:
    """One training run, which can be left and gone on with between any two steps."""

    def __init__(
        self,
        module: fx.GraphModule,
        loader: Loader,
        phase: Phase,
        objective: Objective,
        meter: Meter,
        engine: Engine,
        seed: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._module, self._loader = module, loader
        self._phase, self._objective = phase, objective
        self._meter, self._engine, self._checkpoint = meter, engine, checkpoint
        self._epoch, self._batch, self._complete = 1, 0, False
        self._at_start = self._now = random_state(engine.device)
        self._ranks, self._seed = current(), seed
        self.x: Tensor | None = None
        if checkpoint is not None:
            found = checkpoint.load() if self._ranks.is_first else None
            if (state := self._ranks.share(found)) is not None:
                self._load_state(state)

    def train(self, stop: Stop) -> bool:
        """Go through the data; returns whether Ctrl-C ended it."""
        try:
            while self._is_to_go_on():
                if self._rest_of_epoch(stop):
                    break
        except KeyboardInterrupt:
            stop.asked = signal.SIGINT
        except RuntimeError as error:
            # The workers that feed the loader may have been stopped by the same signal.
            if not stop.asked or "DataLoader" not in str(error):
                raise
        else:  # all processes come here after the same step; a signal may have reached one only
            stop.asked = self._ranks.largest(stop.asked, self._engine.device)
        self._complete = self._complete or not stop.asked
        self._save()
        if stop.asked == signal.SIGTERM:
            sys.exit(128 + stop.asked)
        return bool(stop.asked)

    def _is_to_go_on(self) -> bool:
        epochs_left = self._epoch <= self._phase.epochs
        return epochs_left and not self._complete and not self._phase.is_over()

    def _rest_of_epoch(self, stop: Stop) -> bool:
        """Go on with an epoch until it ends; returns whether the run ends with it."""
        for batch in self._meter.waiting_for(self._batches()):
            self._step(*inputs_and_labels(batch))
            self._batch += 1
            if self._is_told_to(stop) or self._phase.is_over():
                return True
            if self._checkpoint is not None and self._checkpoint.is_due():
                self._save()
        self._epoch, self._batch = self._epoch + 1, 0
        return False

    def _is_told_to(self, stop: Stop) -> bool:
        """Whether a signal asks to stop; several processes agree on it now and then."""
        if self._ranks.world == 1:
            return bool(stop.asked)
        if self._meter.step % _AGREE_EVERY:
            return False
        stop.asked = self._ranks.largest(stop.asked, self._engine.device)
        return bool(stop.asked)

    def _batches(self) -> Iterator[Batch]:
        """The batches of an epoch from where the run stands."""
        set_epoch(self._loader, self._epoch - 1)
        if not self._batch:
            self._at_start = random_state(self._engine.device)
            return iter(self._loader)
        set_random_state(self._at_start)
        left = itertools.islice(self._loader, self._batch, None)
        first = next(left, None)
        set_random_state(self._now)
        return left if first is None else itertools.chain([first], left)

    def _step(self, x: Tensor, labels: Tensor | None) -> None:
        """One step of the optimizer."""
        self.x = self._engine.place(x)
        if labels is not None:
            labels = labels.to(self._engine.device, non_blocking=True)
        phase = self._phase
        loss, right = self._engine.step(
            self.x, labels, self._objective, phase.penalty, phase.optimizer
        )
        phase.after_step()
        self._meter.add(self._epoch, len(x), loss, right)

    def roll_back(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        if self._checkpoint is not None and (state := self._checkpoint.load()) is not None:
            self._load_state(state)

    def _save(self) -> None:
        self._meter.report()  # what has left all bounds is not saved
        if self._checkpoint is None or not self._ranks.is_first:
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
                "random": random_state(self._engine.device),
                "phase": self._phase.state(),
                "engine": self._engine.state(),
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
        if not self._ranks.is_first:  # whose state it is
            torch.manual_seed(mixed(self._seed, self._ranks.rank, state["step"]))
            self._now = random_state(self._engine.device)
        self._phase.load_state(state["phase"])
        with torch.no_grad():
            for name, tensor in each_tensor(self._module):
                tensor.copy_(state["tensors"][name])
        self._phase.optimizer.load_state_dict(state["optimizer"])
        self._engine.load_state(state["engine"])
