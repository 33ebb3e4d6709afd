"""Training with gates: the way down to the targets, and the time in which what is left settles."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from vibfx.budgets import Budget
from vibfx.data import Loader, inputs_and_labels
from vibfx.gates import gates_of
from vibfx.passes.set_mode import SetMode
from vibfx.training.checkpoint import Checkpoint, State
from vibfx.training.compressor import WAY, Compressor
from vibfx.training.engine import AUTOMATIC, Hardware
from vibfx.training.loop import Outcome, fit
from vibfx.training.meter import OnProgress
from vibfx.training.objectives import Objective
from vibfx.training.optimizers import parameter_groups
from vibfx.training.ranks import current, shard
from vibfx.training.resuming import set_epoch
from vibfx.training.shrinking import unshrink
from vibfx.weighting import Weights


class GatedTraining:
    """Trains weights and gates together, in place: ``compress``, then perhaps ``settle``.

    In the end comes ``finish``, whatever was done. The arguments are those of ``train``, with the
    number of ``epochs`` for both phases.
    """

    def __init__(
        self,
        gated: fx.GraphModule,
        loader: Loader,
        *,
        objective: Objective,
        target: str | Sequence[Budget] | None,
        gamma: float | None,
        is_good: Callable[[fx.GraphModule], bool] | None,
        weights: Weights | None,
        epochs: int,
        lr: float,
        hardware: Hardware = AUTOMATIC,
        seed: int = 0,
        shrinking: bool = True,
        round_to: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        shard(loader, current())
        self._gated, self._loader, self._objective = gated, loader, objective
        self._optimizer = torch.optim.Adam(parameter_groups(gated, lr), fused=True)
        self._compressor = Compressor(
            gated,
            self._optimizer,
            target=target,
            gamma=gamma,
            is_good=is_good,
            weights=weights,
            steps=epochs * len(loader),
            scale=_scale(gated, loader, objective),
            shrinking=shrinking,
            round_to=round_to,
        )
        self._epochs, self._arrives = epochs, gamma is None
        self._hardware, self._seed, self._on_progress = hardware, seed, on_progress
        self._interrupted = False

    @property
    def epochs_left(self) -> float:
        """How many of the epochs are left."""
        return self._compressor.steps_left / max(len(self._loader), 1)

    def compress(self, checkpoint: Checkpoint | None = None) -> Outcome:
        """Train until the targets are met, for two fifths of the epochs at most; with a gamma, all.

        Args:
            checkpoint: Where to write the state now and then; what it holds already is gone on
                with.
        """
        epochs = math.ceil(WAY * self._epochs) if self._arrives else self._epochs
        return self._fit(_Compressing(self._compressor, self._optimizer, epochs), checkpoint)

    def settle(self, checkpoint: Checkpoint | None = None) -> Outcome:
        """Train on for the rest of the epochs, with the noise and at a low price.

        The learning rates fall to zero along a half cosine.

        Args:
            checkpoint: As for ``compress``, but another one.
        """
        epochs = math.ceil(self.epochs_left)
        return self._fit(_Settling(self._compressor, self._optimizer, epochs), checkpoint)

    def finish(self) -> None:
        """Give the graph its full shape back, all units shut that are not to stay.

        Where training was interrupted before the targets were met, the gates alone decide.
        """
        self._compressor.finish(to_target=not self._interrupted)

    def _fit(self, phase: "_Compressing", checkpoint: Checkpoint | None) -> Outcome:
        try:
            outcome = fit(
                self._gated,
                self._loader,
                phase,
                objective=self._objective,
                hardware=self._hardware,
                seed=self._seed,
                on_progress=self._on_progress,
                checkpoint=checkpoint,
            )
        except BaseException:
            unshrink(self._gated)
            raise
        self._interrupted = outcome.interrupted
        return outcome


class _Compressing:
    """The way to the targets, which a compressor steers."""

    name = "compress"

    def __init__(
        self, compressor: Compressor, optimizer: torch.optim.Optimizer, epochs: int
    ) -> None:
        self.epochs, self.optimizer, self.units = epochs, optimizer, compressor.units
        self._compressor = compressor

    def is_over(self) -> bool:
        return self._compressor.arrived

    def penalty(self) -> Tensor | float:
        return self._compressor.penalty()

    def after_step(self) -> None:
        self._compressor.step()

    def left(self) -> tuple[int, float]:
        return self._compressor.left()

    def state(self) -> State:
        return self._compressor.state_dict()

    def load_state(self, state: State) -> None:
        self._compressor.load_state_dict(state)


class _Settling(_Compressing):
    """The time after it, in which the learning rates fall."""

    name = "settle"

    def __init__(
        self, compressor: Compressor, optimizer: torch.optim.Optimizer, epochs: int
    ) -> None:
        super().__init__(compressor, optimizer, epochs)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(compressor.steps_left, 1)
        )

    def is_over(self) -> bool:
        return not self._compressor.steps_left

    def after_step(self) -> None:
        super().after_step()
        self._schedule.step()

    def state(self) -> State:
        return {"compressor": super().state(), "schedule": self._schedule.state_dict()}

    def load_state(self, state: State) -> None:
        super().load_state(state["compressor"])
        self._schedule.load_state_dict(state["schedule"])


def _scale(gated: fx.GraphModule, loader: Loader, objective: Objective) -> float:
    """The data term of a first batch with every gate shut, where nothing can be told apart.

    It is 1 where that is no number above 0, as of a loss of the user's that may be negative: prices
    then start as if the loss had no unit, and the controller does the rest.
    """
    set_epoch(loader, 0)
    x, labels = inputs_and_labels(next(iter(loader)))
    gates = gates_of(gated).values()
    means = [gate.mu.detach().clone() for gate in gates]
    SetMode(training=False)(gated)
    with torch.no_grad():
        for gate in gates:
            gate.mu.zero_()
        found = float(objective(gated(x), x, labels))
        for gate, mean in zip(gates, means, strict=True):
            gate.mu.copy_(mean)
    return current().share(found if 0.0 < found < math.inf else 1.0)
