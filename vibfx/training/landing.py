"""Which units a gated graph lands with where its way ends, and what it has in reserve."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from vibfx.budgets import Budget, Controller, cheapest, land
from vibfx.costs import CostModel
from vibfx.coupling import Coupling
from vibfx.planning import Keep
from vibfx.rounding import rounded, rounded_up

Scores = npt.NDArray[np.float64]

# What is cut cannot be opened again. So units stay, shut or not, that cost so many times what each
# target allows: of the last ones to shut, too many may do so at once, or those of one target long
# before another is met.
_RESERVE = 1.3


class Landing:
    """Chooses units by their ``log_alpha`` so that targets are just met, in widths of whole steps.

    Args:
        coupling: The groups.
        costs: The cost of a choice of units.
        budgets: The targets; none where nothing is asked but the rounding of widths.
        controller: What knows whether they are met.
        steps: Finds for every group its step; asked the first time that it is needed.
    """

    def __init__(
        self,
        coupling: Coupling,
        costs: CostModel,
        budgets: Sequence[Budget],
        controller: Controller,
        steps: Callable[[], Sequence[int]],
    ) -> None:
        self._coupling, self._controller, self._find_steps = coupling, controller, steps
        if budgets:
            self._least = cheapest(budgets[0].kind, coupling, costs)

    def shut(self, keep: Keep, scores: Scores) -> Keep:
        """Those units left with which the cost is on its path again."""
        on_path = self._controller.keeps_up
        return keep & land(keep, scores, on_path, self._coupling, self._least)

    def landed(self, keep: Keep, scores: Scores) -> Keep:
        """The best units that are just within all budgets."""
        met = self._controller.met
        keep = land(keep, scores, met, self._coupling, self._least)
        return rounded(keep, scores, met, self._controller.used, self._coupling, self._steps)

    def rounded_up(self, keep: Keep, scores: Scores) -> Keep:
        """Where no budget says how many units there may be: widths go up to whole steps."""
        return rounded_up(keep, scores, self._coupling, self._steps)

    def with_reserve(self, left: Keep, scores: Scores) -> Keep:
        """With the best of those that are shut, so that there is something to land with."""
        needs_more = partial(self._controller.met_any, slack=_RESERVE)
        if not needs_more(left):
            return left
        return left | land(left, scores, needs_more, self._coupling, self._least)

    @cached_property
    def _steps(self) -> Sequence[int]:
        return self._find_steps()
