"""Which units a gated graph lands with where its way ends, and what it has in reserve."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from vibfx.budgets import Budget, cheapest
from vibfx.costs import Cost, CostModel
from vibfx.coupling import Coupling
from vibfx.latency import LatencyModel, Step
from vibfx.metrics import Measures
from vibfx.planning import Keep
from vibfx.rounding import USED_UP, aligned, rounded, rounded_up, worth_of_units
from vibfx.selection import exchanged, land
from vibfx.training.controller import Controller

Scores = npt.NDArray[np.float64]

# What is cut cannot be opened again. So units stay, shut or not, that cost so many times what each
# target allows: of the last ones to shut, too many may do so at once, or those of one target long
# before another is met.
_RESERVE = 1.3

# How far scores are tilted, step by step, towards units that cost more of a budget with room left:
# times the logarithm of how much more. And the share of each group that has to stay.
_TILTS = tuple(2.0 ** (power / 2) for power in range(-4, 7))
_STAYS_AT_LEAST = 0.5

# The part of what fewer FLOPs promise by which the runtime has to get faster.
_OF_IDEAL = 0.8

# What costs nothing at all has a logarithm nevertheless.
_LEAST_SHARE = 1e-12

# How often units are chosen anew where more has gone than was counted, and less is used up.
_CORRECTIONS = 3


class Landing:
    """Chooses units by their ``log_alpha`` so that targets are just met, in widths of whole steps.

    Args:
        coupling: The groups.
        costs: The cost of a choice of units.
        budgets: The targets; none where nothing is asked but the rounding of widths.
        controller: What knows whether they are met.
        steps: Finds for every group which widths are whole, from fine steps to coarse ones; asked
            when that is first needed.
        latency: Makes what tells how fast the runtime is with some units beside others; asked when
            that is first needed.
        measured: Measures the network that a choice of units leaves.
    """

    def __init__(
        self,
        coupling: Coupling,
        costs: CostModel,
        budgets: Sequence[Budget],
        controller: Controller,
        steps: Callable[[], Sequence[Sequence[Step]]],
        latency: Callable[[], LatencyModel],
        measured: Callable[[Keep], Measures],
    ) -> None:
        self._coupling, self._costs = coupling, costs
        self._controller, self._find_steps, self._make_latency = controller, steps, latency
        self._measured = measured
        if budgets:
            self._least = cheapest(budgets[0].kind, coupling, costs)

    def shut(self, keep: Keep, scores: Scores) -> Keep:
        """Those units left with which the cost is on its path again."""
        on_path = self._controller.keeps_up
        return keep & land(keep, scores, on_path, self._coupling, self._least)

    def landed(self, keep: Keep, scores: Scores) -> Keep:
        """The best units that are just within all budgets, as the network is that they leave."""
        choices: list[tuple[float, Keep]] = []
        for correction in range(1 + _CORRECTIONS):
            choice = self._best(keep, scores)
            used = self._really_used(choice)
            choices.append((used if used <= 1.0 else -used, choice))
            if USED_UP <= used <= 1.0:
                break
            if correction:  # a block that comes back would bring more again than its units
                emptied = self._emptied(choice)
                keep, scores = keep & ~emptied, np.where(emptied, -np.inf, scores)
        return max(choices, key=itemgetter(0))[1]

    def rounded_up(self, keep: Keep, scores: Scores) -> Keep:
        """Where no budget says how many units there may be: widths go up to whole steps."""
        return rounded_up(keep, scores, self._coupling, self._steps[0])

    def aligned(self, keep: Keep, scores: Scores) -> Keep:
        """What a graph in training is cut to, which can then land on whole steps."""
        return aligned(keep, scores, self._coupling, self._steps[0])

    def with_reserve(self, left: Keep, scores: Scores) -> Keep:
        """With the best of those that are shut, so that there is something to land with."""
        needs_more = partial(self._controller.met_any, slack=_RESERVE)
        if not needs_more(left):
            return left
        return left | land(left, scores, needs_more, self._coupling, self._least)

    def _best(self, keep: Keep, scores: Scores) -> Keep:
        """The best units within all budgets; of several budgets all are used up where that can be.

        Prices leave a budget alone that another keeps from being used up. Then units that cost more
        of it take the place of such as cost more of the other, half of each group at most; the
        other stays used up.
        """
        best, controller = self._in_steps(keep, scores), self._controller
        uses = controller.uses(best)
        if len(uses) == 1 or min(uses.values()) >= USED_UP:
            return best
        spare, full = (by(uses, key=uses.__getitem__) for by in (min, max))
        favours = self._log_costs(spare, best) - self._log_costs(full, best)
        choices, stays = [best], self._best_half(best, scores)
        at_least = min(USED_UP, controller.used(best))
        for tilt in _TILTS:
            tilted = scores + tilt * favours
            finite = tilted[np.isfinite(tilted)]
            tilted[stays] += finite.max(initial=0.0) - finite.min(initial=0.0)  # before all others
            other = self._in_steps(np.isfinite(scores), tilted)
            if other[stays].all() and controller.used(other) >= at_least:
                choices.append(other)
        return max(choices, key=lambda keep: min(controller.uses(keep).values()))

    def _best_half(self, keep: Keep, scores: Scores) -> Keep:
        """Of each group the half of these units, at least, that is best."""
        half = np.zeros(keep.size, dtype=bool)
        for group in self._coupling.groups:
            own = group.start + np.flatnonzero(keep[group.units])
            best_first = own[np.argsort(-scores[own], kind="stable")]
            half[best_first[: math.ceil(_STAYS_AT_LEAST * own.size)]] = True
        return half

    def _log_costs(self, kind: Cost, keep: Keep) -> npt.NDArray[np.float64]:
        costs: npt.NDArray[np.float64] = np.log(
            np.maximum(self._costs.unit_shares(kind, keep), _LEAST_SHARE)
        )
        return costs

    def _in_steps(self, keep: Keep, scores: Scores) -> Keep:
        """The best units in the finest steps with which time is saved as FLOPs are.

        Where there are none, in those that use the budgets up and save most for what they lose.
        """
        controller, coupling = self._controller, self._coupling
        within, used = controller.met, controller.used
        landed = land(keep, scores, within, coupling, self._least)
        worth = worth_of_units(scores, controller.worth(landed))
        choices: list[tuple[float, float, Keep]] = []
        for steps in self._steps:
            keep = rounded(landed, scores, within, used, coupling, steps, worth)
            if used(keep) < USED_UP:
                keep = exchanged(keep, scores, within, used, coupling)
            if len(self._steps) == 1:
                return keep
            use, saves = min(used(keep), USED_UP), self._of_ideal(keep)
            if use >= USED_UP and saves >= _OF_IDEAL:
                return keep
            choices.append((use, saves * worth[keep].sum(), keep))
        return max(choices, key=itemgetter(0, 1))[2]

    def _of_ideal(self, keep: Keep) -> float:
        """How many times as fast the runtime gets, beside how many times as many FLOPs there were.

        It is a part of 1, or more where what goes takes longer than its FLOPs.
        """
        every = np.ones(keep.size, dtype=bool)
        flops = self._costs.cost("flops", keep) / self._costs.cost("flops", every)
        return flops * self._latency.cost(every) / self._latency.cost(keep)

    def _really_used(self, keep: Keep) -> float:
        """What the network that is left uses of the budgets, which from now on are seen that way.

        Of a latency, what is predicted is all there is.
        """
        left = self._measured(keep)
        self._controller.correct(keep, {"flops": left.flops, "params": left.parameters})
        return self._controller.used(keep)

    def _emptied(self, keep: Keep) -> Keep:
        """The units of groups of which none is left."""
        emptied: Keep = self._widths(keep)[self._coupling.group_of] == 0
        return emptied

    def _widths(self, keep: Keep) -> npt.NDArray[np.intp]:
        """How many units of each group are left."""
        coupling = self._coupling
        return np.bincount(coupling.group_of[keep], minlength=len(coupling.groups))

    @cached_property
    def _steps(self) -> Sequence[Sequence[Step]]:
        return self._find_steps()

    @cached_property
    def _latency(self) -> LatencyModel:
        return self._make_latency()
