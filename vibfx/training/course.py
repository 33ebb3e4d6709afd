"""The course of a compression's training: its phases, each scored on the validation split."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from torch import fx

from vibfx.budgets import Budget
from vibfx.data import Batch, Data
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.engine import AUTOMATIC, Hardware
from vibfx.training.evaluation import Score
from vibfx.training.gated_training import GatedTraining
from vibfx.training.loop import Outcome
from vibfx.training.meter import OnProgress
from vibfx.training.objectives import Objective
from vibfx.training.phases import fine_tune
from vibfx.training.ranks import current
from vibfx.training.resuming import set_epoch
from vibfx.weighting import Weights

PHASES = ("compress", "settle", "fine-tune")
"""What they are called, in their order."""

# A network overfits where the training error is less than this share of the validation error.
_OVERFITTED = 0.5


@dataclass(frozen=True)
class PhaseReport:
    """One phase of training.

    Attributes:
        name: What it was.
        epochs: How many it took.
        seconds: How long it took.
        validation: On the validation split, after it.
        kept: Whether its weights stayed: those before a fine-tune stay where they are better.
    """

    name: str
    epochs: float
    seconds: float
    validation: Score
    kept: bool = True


@dataclass
class Course:
    """Trains one graph after the other, and keeps account of it.

    Attributes:
        original: The graph before anything was done to it.
        data: What to train on, and to choose by.
        objective: The data term.
        score: Measures a graph on a loader.
        on_stage: Called with a few words when a phase begins.
        lr: The weights' learning rate.
        hardware: What to train on, and how.
        seed: Of everything random.
        on_progress: Called about twice a second.
        checkpoints: For each phase, where to write its state.
        phases: What was done.
        interrupted: Whether Ctrl-C ended a phase early.
    """

    original: fx.GraphModule
    data: Data
    objective: Objective
    score: Callable[[fx.GraphModule, Iterable[Batch]], Score]
    on_stage: Callable[[str], None]
    lr: float = 1e-3
    hardware: Hardware = AUTOMATIC
    seed: int = 0
    on_progress: OnProgress | None = None
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    phases: list[PhaseReport] = field(default_factory=list)
    interrupted: bool = False
    _right: float | None = None

    def compress(
        self,
        gated: fx.GraphModule,
        *,
        target: str | Sequence[Budget] | None = None,
        gamma: float | None = None,
        max_drop: float | None = None,
        weights: Weights | None = None,
        settle: bool | None = None,
        round_to: int | None = None,
        epochs: int,
    ) -> float:
        """Train a graph with gates, in place, until its targets are met; perhaps let it settle.

        Args:
            gated: The graph.
            target: What is aimed at.
            gamma: One weight for all gates, in place of a target.
            max_drop: In place of a target: a graph is good enough where it has lost no more points
                of the original's ``Score.right`` on the validation split.
            weights: What the gates weigh beside each other.
            settle: Whether it is trained on with the noise when its targets are met. None: where it
                overfits, which the noise works against; else the time is better spent without it.
            round_to: What widths are multiples of in the end; see ``Compressor``.
            epochs: How many there are for both phases.

        Returns:
            How many of them are left.
        """
        self.on_stage("training the gates")
        run = GatedTraining(
            gated,
            self.data.train,
            objective=self.objective,
            target=target,
            gamma=gamma,
            is_good=None if max_drop is None else lambda graph: self.lost(graph) <= max_drop,
            weights=weights,
            epochs=epochs,
            lr=self.lr,
            hardware=self.hardware,
            seed=self.seed,
            round_to=round_to,
            on_progress=self.on_progress,
        )
        outcome = run.compress(self.checkpoints.get("compress"))
        score = self._note("compress", outcome, gated)
        if run.epochs_left and not outcome.interrupted and self._settles(settle, gated, score):
            self.on_stage("settling")
            self._note("settle", run.settle(self.checkpoints.get("settle")), gated)
        run.finish()
        return run.epochs_left

    def fine_tune(self, small: fx.GraphModule, *, epochs: int) -> None:
        """Train a graph without gates, in place; see ``fine_tune``.

        Where it is worse on the validation split afterwards, its weights are what they were.
        """
        self.on_stage("fine-tuning")
        before, state = self.score(small, self.data.validation), deepcopy(small.state_dict())
        outcome = fine_tune(
            small,
            self.data.train,
            objective=self.objective,
            epochs=epochs,
            lr=self.lr,
            hardware=self.hardware,
            seed=self.seed,
            on_progress=self.on_progress,
            checkpoint=self.checkpoints.get("fine-tune"),
        )
        after = self._note("fine-tune", outcome, small)
        kept = current().share(after.fault <= before.fault)  # the first process decides for all
        if not kept:
            small.load_state_dict(state)
            self.phases[-1] = replace(self.phases[-1], kept=False)

    def lost(self, graph: fx.GraphModule) -> float:
        """How many points of ``Score.right`` a graph has lost on the validation split."""
        if self._right is None:
            self._right = self.score(self.original, self.data.validation).right
        return 100 * (self._right - self.score(graph, self.data.validation).right)

    def clean_up(self) -> None:
        """Remove the checkpoints of training that has come to its end."""
        if not self.interrupted:
            for checkpoint in self.checkpoints.values():
                checkpoint.remove()

    def _settles(self, told: bool | None, graph: fx.GraphModule, validation: Score) -> bool:
        """Whether a graph is trained on with the noise: as told, or where it overfits.

        The training error is measured without noise, on as many batches as the validation split
        has.
        """
        if told is not None:
            return told
        set_epoch(self.data.train, 0)
        some = itertools.islice(self.data.train, len(self.data.validation))
        learnt = self.score(graph, some)
        return current().share(learnt.fault < _OVERFITTED * validation.fault)

    def _note(self, name: str, outcome: Outcome, graph: fx.GraphModule) -> Score:
        score = self.score(graph, self.data.validation)
        epochs = outcome.steps / max(len(self.data.train), 1)
        self.phases.append(PhaseReport(name, epochs, outcome.seconds, score))
        self.interrupted = self.interrupted or outcome.interrupted
        return score
