"""Targets, and the controller that moves the gates' price until they are met."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vibfx.costs import COSTS, Cost, CostModel
from vibfx.coupling import Coupling
from vibfx.errors import TargetError
from vibfx.planning import Keep, cover

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

    def shares(self, keep: Keep) -> dict[str, float]:
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
        shares = self.shares(keep)
        return all(shares[b.kind] <= b.share for b in self._budgets)

    def used(self, keep: Keep) -> float:
        """The share of the budget that binds which these units use up."""
        shares = self.shares(keep)
        return max(shares[b.kind] / b.share for b in self._budgets)

    def met_any(self, keep: Keep, *, slack: float) -> bool:
        """Whether these units are within so many times one of the budgets."""
        shares = self.shares(keep)
        return any(shares[b.kind] <= slack * b.share for b in self._budgets)

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
        """For every unit its price for what it uses of the budgets.

        Gates whose price is what they cost are worth the same: what is left of them pays for that.
        """
        uses = sum(
            self._costs.unit_costs(b.kind, keep) / (b.share * self._full[b.kind])
            for b in self._budgets
        )
        return self._prices(keep) / np.maximum(uses, _LEAST_USE)

    def _prices(self, keep: Keep) -> npt.NDArray[np.float64]:
        prices = np.zeros(keep.size)
        for kind, logarithm in self._log_multiplier.items():
            prices += math.exp(logarithm) * self._unit_shares(kind, keep)
        return prices


def land(
    keep: Keep,
    scores: npt.NDArray[np.float64],
    within: Callable[[Keep], bool],
    coupling: Coupling,
    least: Keep,
) -> Keep:
    """Remove or restore single units, ranked by score, until the budgets are just met.

    Args:
        keep: The units that are open.
        scores: What each unit is worth, such as ``log_alpha``; units at minus infinity are never
            restored.
        within: Whether a choice of units is within all budgets.
        coupling: For the units that cannot all go, and for the groups.
        least: What is left where none of what scores best is within the budgets: of branches that
            cannot all go, the best may be too large.

    Returns:
        A choice within the budgets. Where the units of each group cost the same, none whose score
        is finite could be added to it.
    """
    keep = cover(coupling, keep, scores)
    if not within(keep):
        order = [u for u in np.argsort(scores) if keep[u]]
        keep = _search(order, partial(_without, keep, coupling, scores), within)
        if not within(keep):
            return least
    order = [u for u in np.argsort(-scores) if not keep[u] and np.isfinite(scores[u])]
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if within(_with(keep, order[:middle], True)) else (low, middle - 1)
        )
    return filled(_with(keep, order[:low], True), order[low:], within, coupling)


def exchanged(
    keep: Keep,
    scores: npt.NDArray[np.float64],
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    coupling: Coupling,
) -> Keep:
    """Open one unit more and shut the worst of other groups for it, where that uses more up.

    Where units cost much of a budget, none of those that are shut may fit into what is left of it.

    Args:
        keep: The units that are open, within the budgets.
        scores: What each unit is worth; units at minus infinity are never opened.
        within: Whether a choice of units is within all budgets.
        used: The share of the budget that binds which it uses up.
        coupling: For the groups, of each of which the best unit that is shut is tried.
    """
    choices, group_of = [keep], coupling.group_of
    for number, group in enumerate(coupling.groups):
        shut = group.start + np.flatnonzero(~keep[group.units])
        if shut.size and np.isfinite(scores[best := shut[np.argmax(scores[shut])]]):
            more = _with(keep, [best], True)
            others = [u for u in np.argsort(scores) if keep[u] and group_of[u] != number]
            choices.append(_search(others, partial(_without, more, coupling, scores), within))
    return max((c for c in choices if within(c)), key=used)


def filled(
    keep: Keep, order: Sequence[int], within: Callable[[Keep], bool], coupling: Coupling
) -> Keep:
    """Open units in their order for as long as they are within the budgets.

    Args:
        keep: The units that are open.
        order: Those to open; where one of a group is too much, so are those of it that follow.
        within: Whether a choice of units is within all budgets.
        coupling: The groups.
    """
    too_large = np.zeros(len(coupling.groups), dtype=bool)
    group_of = coupling.group_of
    for unit in order:
        group = group_of[unit]
        if too_large[group]:
            continue
        if within(more := _with(keep, [unit], True)):
            keep = more
        else:
            too_large[group] = True
    return keep


def _search(
    order: list[int], cut: Callable[[list[int]], Keep], within: Callable[[Keep], bool]
) -> Keep:
    """The shortest prefix of the order whose removal meets the budgets."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if within(cut(order[:middle])) else (middle + 1, high)
    return cut(order[:low])


def _without(
    keep: Keep, coupling: Coupling, scores: npt.NDArray[np.float64], gone: list[int]
) -> Keep:
    return cover(coupling, _with(keep, gone, False), scores)


def _with(keep: Keep, units: list[int], value: bool) -> Keep:
    changed = keep.copy()
    changed[units] = value
    return changed
