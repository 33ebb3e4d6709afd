"""Training a gated graph until enough gates are shut, and fine-tuning what is left."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx

from vibfx.budgets import Budget
from vibfx.data import Loader
from vibfx.training.checkpoint import Checkpoint, State
from vibfx.training.engine import AUTOMATIC, Hardware
from vibfx.training.gated_training import GatedTraining
from vibfx.training.loop import Outcome, fit
from vibfx.training.meter import OnProgress
from vibfx.training.objectives import Loss, LossFunction, Objective, as_objective
from vibfx.training.optimizers import normalized_weights
from vibfx.training.ranks import current, shard
from vibfx.weighting import Weights

# Of weights in front of a batch norm, whose size changes nothing but how far a step turns them:
# without it they grow, and learn ever less. Others are short of capacity, and lose by it.
_DECAY = 0.5

DEFAULT_TARGET = "flops=0.5"
"""What is aimed at where nothing is said."""


def default_epochs(loader: Loader) -> int:
    """As many epochs as give some 5,000 steps, but at least 8 and at most 400."""
    return max(8, min(400, math.ceil(5000 / max(len(loader), 1))))


def train(
    gated: fx.GraphModule,
    loader: Loader,
    *,
    objective: Objective | Loss | LossFunction | None = None,
    target: str | Sequence[Budget] | None = None,
    gamma: float | None = None,
    is_good: Callable[[fx.GraphModule], bool] | None = None,
    weights: Weights | None = None,
    epochs: int | None = None,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    shrinking: bool = True,
    round_to: int | None = None,
    on_progress: OnProgress | None = None,
    checkpoints: Mapping[str, Checkpoint] | None = None,
) -> Outcome:
    """Train weights and gates together, in place, until the target is met; then settle.

    The objective is equation (9): the data term plus each gate's information times its gamma.
    The gammas are prices that a ``Compressor`` moves, unless ``gamma`` fixes one for all gates,
    which then decide alone what is shut. Ctrl-C ends it early and keeps what has been learnt; then
    nothing is shut beyond what the gates say.

    Args:
        gated: A graph with gates. Afterwards it is in evaluation mode, on the CPU.
        loader: Batches ``(x, labels)``, or ``x`` alone, iterated once an epoch.
        objective: The data term: a loss by name, a function of outputs and labels, or an
            ``Objective`` such as ``Distillation``; by default the cross-entropy.
        target: Such as ``"flops=0.5"``, which it is by default, or ``"flops=0.3,params=0.1"``.
        gamma: One weight for all gates, in units of the data term, in place of a target.
        is_good: Whether a graph in evaluation mode is good enough, in place of a target; see
            ``Compressor``.
        weights: What the gates weigh beside each other; see ``Compressor``.
        epochs: How often to go through the data; by default for some 5,000 steps.
        lr: The weights' learning rate; the gates' is 30 times as high.
        hardware: What to train on, and how.
        seed: Of the gates' noise and of dropout.
        shrinking: Whether units that are shut for good leave the graph while it is trained, which
            then gets faster. Afterwards they are there again, shut.
        round_to: What widths are multiples of in the end; see ``Compressor``.
        on_progress: Called about twice a second.
        checkpoints: Where to write the state of "compress" and of "settle" now and then; what they
            hold already is gone on with.

    Returns:
        How it ended.

    Raises:
        TargetError: The target cannot be read or reached.
        PlanError: The graph has no gates, or there is more than one of target, gamma, ``is_good``.
    """
    if not (target or gamma is not None or is_good):
        target = DEFAULT_TARGET
    run = GatedTraining(
        gated,
        loader,
        objective=as_objective(objective),
        target=target,
        gamma=gamma,
        is_good=is_good,
        weights=weights,
        epochs=epochs or default_epochs(loader),
        lr=lr,
        hardware=hardware,
        seed=seed,
        shrinking=shrinking,
        round_to=round_to,
        on_progress=on_progress,
    )
    checkpoints = checkpoints or {}
    outcome = run.compress(checkpoints.get("compress"))
    if not outcome.interrupted and run.epochs_left:
        outcome = outcome.then(run.settle(checkpoints.get("settle")))
    run.finish()
    return outcome


def fine_tune(
    module: fx.GraphModule,
    loader: Loader,
    *,
    objective: Objective | Loss | LossFunction | None = None,
    epochs: int,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a graph without gates, in place; the rate falls to zero along a half cosine.

    The optimizer is AdamW (Loshchilov and Hutter, ICLR 2019), but the weights decay only of layers
    that a batch norm follows.

    Args:
        module: A graph without gates. Afterwards it is in evaluation mode, on the CPU.
        loader: Batches ``(x, labels)``, or ``x`` alone.
        objective: The data term, as for ``train``.
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
        objective=as_objective(objective),
        hardware=hardware,
        seed=seed,
        on_progress=on_progress,
        checkpoint=checkpoint,
    )


class _Plain:
    """A phase without gates."""

    name = "fine-tune"
    units = 0

    def __init__(self, module: fx.GraphModule, epochs: int, steps: int, lr: float) -> None:
        self.epochs = epochs
        decayed = normalized_weights(module)
        known = {id(weight) for weight in decayed}
        others: list[Tensor] = [p for p in module.parameters() if id(p) not in known]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [
                {"params": others, "weight_decay": 0.0},
                {"params": decayed, "weight_decay": _DECAY},
            ],
            lr=lr,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(epochs * steps, 1)
        )

    def is_over(self) -> bool:
        return False

    def penalty(self) -> Tensor | float:
        return 0.0

    def after_step(self) -> None:
        self._schedule.step()

    def left(self) -> tuple[int, float]:
        return 0, 1.0

    def state(self) -> State:
        return {"schedule": self._schedule.state_dict()}

    def load_state(self, state: State) -> None:
        self._schedule.load_state_dict(state["schedule"])
