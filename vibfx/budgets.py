"""Targets: what share of a cost may be left, and which can be reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vibfx.costs import COSTS, Cost, CostModel
from vibfx.coupling import Coupling
from vibfx.errors import TargetError
from vibfx.planning import Keep, cover


@dataclass(frozen=True)
class Budget:
    """A share of a cost that may be left, above 0 and below 1."""

    kind: Cost
    share: float

    def __str__(self) -> str:
        return f"{self.kind}={self.share:g}"


def parse_target(text: str) -> tuple[Budget, ...]:
    """Read ``flops=0.5`` or ``flops=0.5,params=0.2``.

    Raises:
        TargetError: The text is no target.
    """
    budgets = []
    for part in text.split(","):
        kind, _, value = part.strip().partition("=")
        share = _share(value)
        if kind not in COSTS or share is None:
            raise TargetError(
                f"{part.strip()!r} is not a target",
                hint="Write flops=SHARE, params=SHARE or latency=SHARE with a share between 0 and "
                "1, such as flops=0.5; several are joined by commas.",
            )
        budgets.append(Budget(next(c for c in COSTS if c == kind), share))
    if len({budget.kind for budget in budgets}) < len(budgets):
        raise TargetError(f"{text!r} names one cost twice")
    return tuple(budgets)


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0.0 < share < 1.0 else None


def check_reachable(budgets: Sequence[Budget], coupling: Coupling, costs: CostModel) -> None:
    """Check that the targets can be met at all.

    Raises:
        TargetError: One cannot, even with nothing left but one way through the network; names the
            smallest share that can.
    """
    for budget in budgets:
        least = smallest(budget.kind, coupling, costs)
        if budget.share < least.share:
            raise TargetError(
                f"the target {budget} cannot be reached with this network",
                hint=f"The smallest reachable is {budget.kind}={_rounded_up(least.share)}.",
            )


def smallest(kind: Cost, coupling: Coupling, costs: CostModel) -> Budget:
    """The smallest budget that can be met: with nothing left but one way through the network."""
    full, least = np.ones(coupling.units, dtype=bool), cheapest(kind, coupling, costs)
    return Budget(kind, costs.cost(kind, least) / costs.cost(kind, full))


def cheapest(kind: Cost, coupling: Coupling, costs: CostModel) -> Keep:
    """The units that have to stay at least: where there is a choice, those that cost least."""
    worth = -costs.unit_costs(kind, np.ones(coupling.units, dtype=bool))
    return cover(coupling, np.zeros(coupling.units, dtype=bool), worth)


def _rounded_up(share: float) -> str:
    return f"{math.ceil(share * 1000) / 1000:g}"
