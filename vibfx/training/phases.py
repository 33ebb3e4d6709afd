"""Training a gated graph until enough gates are shut, and fine-tuning what is left."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from vibfx.budgets import Budget, Controller, cheapest, check_reachable, land, parse_target
from vibfx.components import Units
from vibfx.data import Loader
from vibfx.errors import PlanError
from vibfx.gates import VIBGate, gates_of, information
from vibfx.metrics import CostModel
from vibfx.planning import Keep, cover, unit_log_alpha
from vibfx.training.checkpoint import Checkpoint, State
from vibfx.training.engine import AUTOMATIC, Hardware
from vibfx.training.loop import Outcome, fit
from vibfx.training.meter import OnProgress
from vibfx.training.ranks import current, shard
from vibfx.training.shrinking import alive, cut, shrink, unshrink, whole_of

# The gates' learning rate over the weights'. The main lever: at 1 most gates stay open, beyond 30
# little is gained.
GATE_RATE = 30.0

# The graph is cut when so much of its work would go: a cut takes as long as some steps.
_WORTH_A_CUT = 0.1

# How often the prices move while the cost follows its path.
_UPDATES = 200

# By how much of its length the path may be overrun where the gates lag behind it.
_OVERTIME = 0.25

# log(alpha) given to a unit that is opened again, so that it is clearly open.
_RESTORED_LOG_ALPHA = 2.0


def default_epochs(loader: Loader) -> int:
    """As many epochs as give some 4,000 steps, but at least 6 and at most 100."""
    return max(6, min(100, math.ceil(4000 / max(len(loader), 1))))


def train(
    gated: fx.GraphModule,
    loader: Loader,
    *,
    target: str | Sequence[Budget] | None = "flops=0.5",
    gamma: float | None = None,
    epochs: int | None = None,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    shrinking: bool = True,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train weights and gates together, in place, until the target is met.

    The objective is equation (9): the cross-entropy plus each gate's information times its gamma.
    The gammas are prices that a controller moves, unless ``gamma`` fixes one for all gates. At the
    end single units are shut or opened in the order of their ``log_alpha``, so that the target is
    just met; without a target the gates alone decide. Ctrl-C ends it early and keeps what has been
    learnt; then nothing is shut beyond what the gates say.

    Args:
        gated: A graph with gates. Afterwards it is in evaluation mode, on the CPU.
        loader: Batches ``(x, labels)``, iterated once an epoch.
        target: Such as ``"flops=0.5"`` or ``"flops=0.3,params=0.1"``.
        gamma: One weight for all gates, in units of the data term.
        epochs: How often to go through the data; by default for some 4,000 steps. A quarter more
            is added where the gates lag behind.
        lr: The weights' learning rate; the gates' is 30 times as high.
        hardware: What to train on, and how.
        seed: Of the gates' noise and of dropout.
        shrinking: Whether units that are shut for good leave the graph while it is trained, which
            then gets faster. Afterwards they are there again, shut.
        on_progress: Called about twice a second.
        checkpoint: Where to write the state now and then; what it holds already is gone on with.

    Returns:
        How it ended.

    Raises:
        TargetError: The target cannot be read or reached.
        PlanError: The graph has no gates, or there is neither a target nor a gamma.
    """
    budgets = parse_target(target) if isinstance(target, str) else tuple(target or ())
    if not budgets and gamma is None:
        raise PlanError("there is neither a target nor a gamma, so no gate would ever shut")
    shard(loader, current())
    epochs = epochs or default_epochs(loader)
    phase = _Gated(gated, budgets, gamma, epochs, len(loader), lr, shrinking)
    overtime = 0 if gamma is not None else math.ceil(epochs * _OVERTIME)
    try:
        outcome = fit(
            gated,
            loader,
            phase,
            epochs=epochs + overtime,
            hardware=hardware,
            seed=seed,
            on_progress=on_progress,
            checkpoint=checkpoint,
        )
    finally:
        unshrink(gated)
    phase.finish(to_target=bool(budgets) and not outcome.interrupted)
    return outcome


def fine_tune(
    module: fx.GraphModule,
    loader: Loader,
    *,
    epochs: int,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a graph without gates, in place; the rate falls to zero along a half cosine.

    Args:
        module: A graph without gates. Afterwards it is in evaluation mode, on the CPU.
        loader: Batches ``(x, labels)``.
        epochs: How often to go through the data.
        lr: The learning rate at the start.
        hardware: What to train on, and how.
        seed: Of dropout.
        on_progress: Called about twice a second.
        checkpoint: Where to write the state now and then; what it holds already is gone on with.

    Returns:
        How it ended; Ctrl-C ends it early and keeps what has been learnt.
    """
    shard(loader, current())
    return fit(
        module,
        loader,
        _Plain(module, epochs, len(loader), lr),
        epochs=epochs,
        hardware=hardware,
        seed=seed,
        on_progress=on_progress,
        checkpoint=checkpoint,
    )


class _Plain:
    """A phase without gates."""

    name = "fine-tune"
    units = 0

    def __init__(self, module: nn.Module, epochs: int, steps: int, lr: float) -> None:
        self.epochs = epochs
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            module.parameters(), lr=lr, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(epochs * steps, 1)
        )

    def penalty(self) -> Tensor | float:
        return 0.0

    def after_step(self, step: int) -> bool:  # noqa: ARG002  (the protocol's)
        self._schedule.step()
        return False

    def left(self) -> tuple[int, float]:
        return 0, 1.0

    def state(self) -> State:
        return {"schedule": self._schedule.state_dict()}

    def load_state(self, state: State) -> None:
        self._schedule.load_state_dict(state["schedule"])


class _Gated:
    """A phase with gates: at a constant rate until the cost has come down its path."""

    name = "compress"

    def __init__(
        self,
        gated: fx.GraphModule,
        budgets: Sequence[Budget],
        gamma: float | None,
        epochs: int,
        steps: int,
        lr: float,
        shrinking: bool,
    ) -> None:
        self.epochs = epochs
        coupling = whole_of(gated).coupling
        costs = CostModel(gated, coupling)
        check_reachable(budgets, coupling, costs)
        self.units = coupling.units
        self._gated, self._coupling, self._costs = gated, coupling, costs
        self._gates, self._shrinking = gates_of(gated), shrinking
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            _groups(gated, self._gates, lr), fused=True
        )
        self._steps = epochs * steps
        self._interval = max(1, self._steps // _UPDATES)
        self._budgets = budgets
        self._controller = Controller(
            budgets, costs, self.units, updates=self._steps // self._interval
        )
        self._moving = gamma is None
        self._gamma = dict.fromkeys(self._gates, gamma or 0.0)
        if self._moving:
            self._reprice()

    def penalty(self) -> Tensor | float:
        return information(self._gated, self._gamma)

    def after_step(self, step: int) -> bool:
        """Keep the means at zero or above; move the prices now and then."""
        with torch.no_grad():
            # Below zero a gate would flip its channel's sign, which a ReLU or a max pool behind it
            # does not let pass. At zero it is shut.
            torch._foreach_clamp_min_([gate.mu for gate in self._gates.values()], 0.0)
        if step % self._interval:
            return False
        if self._moving:
            self._reprice()
        if self._shrinking and self._is_worth_a_cut():
            shrink(self._gated, self.optimizer)
        return step >= self._steps and (not self._moving or self._controller.met(self._open()))

    def _is_worth_a_cut(self) -> bool:
        left = alive(self._gated)
        if self._budgets and self._controller.met(left):
            return False  # what is cut could not be opened again to land on the target
        now = self._costs.cost("flops", whole_of(self._gated).keep)
        return self._costs.cost("flops", left) < (1 - _WORTH_A_CUT) * now

    def left(self) -> tuple[int, float]:
        keep = self._open()
        full = self._costs.cost("flops", np.ones(self.units, dtype=bool))
        return int(keep.sum()), self._costs.cost("flops", keep) / full

    def state(self) -> State:
        return {
            "keep": torch.from_numpy(whole_of(self._gated).keep),
            "controller": self._controller.state(),
            "gamma": self._gamma,
        }

    def load_state(self, state: State) -> None:
        cut(self._gated, state["keep"].numpy(), self.optimizer)
        self._controller.load_state(state["controller"])
        self._gamma = state["gamma"]

    def finish(self, *, to_target: bool) -> None:
        """Open the units that no layer can do without; with a target, meet it.

        Then single units are shut or opened in the order of their information.
        """
        scores = unit_log_alpha(self._gated, self._coupling)
        chosen = cover(self._coupling, self._open(), scores)
        if to_target:
            least = cheapest(self._budgets[0].kind, self._coupling, self._costs)
            chosen = land(chosen, scores, self._controller.met, self._coupling, least)
        chosen = np.append(chosen, True)  # STAYS is the last one
        for name, units in self._entries().items():
            _set_open(self._gates[name], torch.from_numpy(chosen[units]))

    def _entries(self) -> dict[str, Units]:
        return whole_of(self._gated).gate_units(self._gated)

    def _open(self) -> Keep:
        keep = np.zeros(self.units + 1, dtype=bool)  # STAYS is the last one
        for name, units in self._entries().items():
            keep[units[self._gates[name].open().cpu().numpy()]] = True
        return keep[:-1]

    def _reprice(self) -> None:
        prices: npt.NDArray[np.float64] = self._controller.update(
            cover(self._coupling, self._open())
        )
        prices = np.append(prices, 0.0)
        self._gamma = {name: float(prices[u].mean()) for name, u in self._entries().items()}


def _groups(module: nn.Module, gates: dict[str, VIBGate], lr: float) -> list[dict[str, Any]]:
    of_gates = [p for gate in gates.values() for p in gate.parameters()]
    known = {id(p) for p in of_gates}
    weights = [p for p in module.parameters() if id(p) not in known]
    return [{"params": weights, "lr": lr}, {"params": of_gates, "lr": GATE_RATE * lr}]


def _set_open(gate: VIBGate, chosen: Tensor) -> None:
    """Make exactly the chosen units of a gate open."""
    with torch.no_grad():
        gate.mu[~chosen] = 0.0
        reopened = chosen & ~gate.open()
        # A layer of which every unit has lost its mean keeps one, as open as in a new gate.
        gate.mu[reopened & (gate.mu.square() == 0.0)] = 1.0
        alpha = gate.threshold + _RESTORED_LOG_ALPHA
        gate.log_sigma2[reopened] = gate.mu[reopened].square().log() - alpha
