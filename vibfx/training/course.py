"""The course of a compression's training: its phases, each scored on the validation split."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from torch import fx

from vibfx.budgets import Budget
from vibfx.data import Data, Loader
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.engine import Hardware
from vibfx.training.evaluation import Score
from vibfx.training.loop import Outcome
from vibfx.training.meter import OnProgress
from vibfx.training.objectives import Objective
from vibfx.training.phases import fine_tune, train
from vibfx.training.ranks import current
from vibfx.weighting import Weights


@dataclass(frozen=True)
class PhaseReport:
    """One phase of training.

    Attributes:
        name: What it was.
        epochs: How many it was planned to have.
        seconds: How long it took.
        validation: On the validation split, after it.
        kept: Whether its weights stayed: those before a fine-tune stay where they are better.
    """

    name: str
    epochs: int
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
    score: Callable[[fx.GraphModule, Loader], Score]
    lr: float
    hardware: Hardware
    seed: int
    on_progress: OnProgress
    checkpoints: Mapping[str, Checkpoint]
    phases: list[PhaseReport] = field(default_factory=list)
    interrupted: bool = False
    _right: float | None = None

    def compress(
        self,
        gated: fx.GraphModule,
        *,
        target: Sequence[Budget],
        gamma: float | None,
        max_drop: float | None,
        weights: Weights | None,
        epochs: int,
    ) -> None:
        """Train a graph with gates, in place; see ``train``.

        With ``max_drop``, in points, a graph is good enough where it has lost no more of the
        original's ``Score.right`` on the validation split.
        """
        outcome = train(
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
            on_progress=self.on_progress,
            checkpoint=self.checkpoints.get("gates"),
        )
        self._note("compress", epochs, outcome, self.score(gated, self.data.validation))

    def fine_tune(self, small: fx.GraphModule, *, epochs: int) -> None:
        """Train a graph without gates, in place; see ``fine_tune``.

        Where it is worse on the validation split afterwards, its weights are what they were.
        """
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
        after = self.score(small, self.data.validation)
        kept = current().share(after.fault <= before.fault)  # the first process decides for all
        if not kept:
            small.load_state_dict(state)
        self._note("fine-tune", epochs, outcome, after, kept=kept)

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

    def _note(
        self, name: str, epochs: int, outcome: Outcome, score: Score, *, kept: bool = True
    ) -> None:
        self.phases.append(PhaseReport(name, epochs, outcome.seconds, score, kept))
        self.interrupted = self.interrupted or outcome.interrupted
