"""The controller that moves the gates' price until the targets are met."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vibfx.budgets import Budget
from vibfx.costs import Cost, CostModel
from vibfx.planning import Keep

# Measured on LeNet-5: larger steps overshoot where a layer has few channels.
_LARGEST_STEP = 0.15
_GAIN = 0.5

# The path that prices follow arrives after this share of the way: then there is time for gates that
# hesitate, such as the last few of a layer.
_EARLY = 0.6

# What uses nothing of a budget is not divided by.
_LEAST_USE = 1e-12

# What has to keep up starts after this share of the way: before, the gates tell nothing apart yet.
_LATE = 1 / 3


UnitShares = Callable[[Cost, Keep], npt.NDArray[np.float64]]


class Controller:
    """Moves the price of each cost so that the network follows a path down to its budgets.

    Each budget has a multiplier. It is raised while the cost is above a path that falls
    log-linearly from the full cost to the budget, and lowered while it is below: integral control
    of the logarithm, with clipped steps. A unit's price is the sum over the budgets of multiplier
    times what falls to the unit.

    Args:
        budgets: What to reach.
        costs: The cost as a function of the units left.
        units: How many units there are.
        shares: What falls to each unit of a price on a cost, as ``Weighting.shares`` has it.
        updates: After how many updates the path arrives.
        start: The multipliers at the beginning, in units of the data term.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        costs: CostModel,
        units: int,
        *,
        shares: UnitShares,
        updates: int,
        start: float,
    ) -> None:
        self._budgets = budgets
        self._costs, self._unit_shares = costs, shares
        self._full = {b.kind: costs.cost(b.kind, np.ones(units, dtype=bool)) for b in budgets}
        self._not_counted = dict.fromkeys(self._full, 0.0)
        self._log_multiplier = {b.kind: math.log(start) for b in budgets}
        self._updates = max(updates, 1)
        self._done = 0

    def state(self) -> dict[str, Any]:
        """The multipliers, and how far along its path it is: plain values."""
        return {"log_multiplier": self._log_multiplier, "done": self._done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._log_multiplier, self._done = dict(state["log_multiplier"]), state["done"]

    def shares(self, keep: Keep) -> dict[Cost, float]:
        """What is left of each budgeted cost."""
        return {
            kind: (self._costs.cost(kind, keep) - self._not_counted[kind]) / full
            for kind, full in self._full.items()
        }

    def correct(self, keep: Keep, measured: Mapping[str, float]) -> None:
        """Take what the network costs that these units leave for as many of its costs as are known.

        More may go than the cost of units counts: with a block that is emptied the norm before it.
        From now on as much is left out of every choice's cost.
        """
        for kind in self._full.keys() & measured.keys():
            self._not_counted[kind] = self._costs.cost(kind, keep) - measured[kind]

    def met(self, keep: Keep) -> bool:
        """Whether these units are within all budgets."""
        return all(use <= 1.0 for use in self.uses(keep).values())

    def uses(self, keep: Keep) -> dict[Cost, float]:
        """The share of each budget that these units use up."""
        shares = self.shares(keep)
        return {b.kind: shares[b.kind] / b.share for b in self._budgets}

    def used(self, keep: Keep) -> float:
        """The share of the budget that binds which these units use up."""
        return max(self.uses(keep).values())

    def met_any(self, keep: Keep, *, slack: float) -> bool:
        """Whether these units are within so many times one of the budgets."""
        return any(use <= slack for use in self.uses(keep).values())

    def keeps_up(self, keep: Keep) -> bool:
        """Whether these units cost no more than a path that starts late, and arrives as early."""
        progress = max(0.0, (self._progress - _LATE) / (1 - _LATE))
        shares = self.shares(keep)
        return all(shares[b.kind] <= b.share**progress for b in self._budgets)

    @property
    def _progress(self) -> float:
        return min(self._done / self._updates, 1.0)

    def update(
        self,
        keep: Keep,
        *,
        foreseen: Keep | None = None,
        largest_step: float = math.inf,
        waiting: bool = False,
    ) -> npt.NDArray[np.float64]:
        """Move the multipliers by one step, and return the price of every unit.

        Args:
            keep: The units that are open now.
            foreseen: Those that will be open a while from now, as it looks: gates shut long after
                their price has risen, and what waits for it would raise it far too much.
            largest_step: By how much the logarithm of a multiplier may move, if less than 0.15.
            waiting: Whether the path goes no further down for now.
        """
        self._done += not waiting
        progress = min(self._progress / _EARLY, 1.0)
        soon = self.shares(keep if foreseen is None else foreseen)
        largest = min(largest_step, _LARGEST_STEP)
        for budget in self._budgets:
            error = math.log(soon[budget.kind]) - progress * math.log(budget.share)
            step = max(-largest, min(largest, _GAIN * error))
            self._log_multiplier[budget.kind] += step
        return self._prices(keep)

    def worth(self, keep: Keep) -> npt.NDArray[np.float64]:
        """For every unit its price for what falls to it of what is used of the budgets.

        Gates whose price is what they cost are worth the same: what is left of them pays for that.
        """
        used = self.shares(keep)
        falls_to = sum(
            used[b.kind] / b.share * self._costs.unit_shares(b.kind, keep) for b in self._budgets
        )
        return self._prices(keep) / np.maximum(falls_to, _LEAST_USE)

    def _prices(self, keep: Keep) -> npt.NDArray[np.float64]:
        prices = np.zeros(keep.size)
        for kind, logarithm in self._log_multiplier.items():
            prices += math.exp(logarithm) * self._unit_shares(kind, keep)
        return prices
