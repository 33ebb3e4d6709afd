"""How the price of information is shared out among the gates: the gamma_i of equation (9)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from vibfx.costs import Cost, CostModel
from vibfx.coupling import Coupling
from vibfx.errors import InputError
from vibfx.planning import Keep

Weights = Literal["cost", "uniform"] | Mapping[str, float]
"""By what a unit costs, all alike, or a weight for each group by its name."""

# What costs nothing at all is not divided by.
_LEAST = 1e-30


class Weighting:
    """What the gates' information weighs, unit by unit, relative to each other.

    Equation (9) has one gamma a layer and leaves it to the user. The paper's code has one factor
    for all (``kl-fac``), times the size of the layer's feature map, times a number written by hand
    for the layer. ``"cost"`` does by itself what those are for: a unit weighs what the cost falls
    by if it goes, in the network as it is now.

    Args:
        weights: ``"cost"``, ``"uniform"``, or a weight for each group's name, 1 for all others.
        coupling: The groups.
        costs: What units cost.

    Raises:
        InputError: A weight is not above 0, or there is no group of that name.
    """

    def __init__(self, weights: Weights, coupling: Coupling, costs: CostModel) -> None:
        self._by_cost, self._costs = weights == "cost", costs
        self._fixed = np.ones(coupling.units)
        if isinstance(weights, Mapping):
            _check(weights, coupling)
            for group in coupling.groups:
                self._fixed[group.units] = weights.get(group.name, 1.0)
        elif weights not in ("cost", "uniform"):
            raise InputError(
                f"the gates cannot be weighted by {weights!r}",
                hint="Pass cost, uniform, or a weight for each group's name.",
            )

    def shares(self, kind: Cost, keep: Keep) -> npt.NDArray[np.float64]:
        """What falls to each unit of a price on the whole network.

        Args:
            kind: The cost that the price is on.
            keep: The units that are open now.
        """
        if self._by_cost:
            return self._costs.unit_shares(kind, keep)
        shares: npt.NDArray[np.float64] = self._fixed / max(float(self._fixed[keep].sum()), _LEAST)
        return shares

    def relative(self, keep: Keep) -> npt.NDArray[np.float64]:
        """The weights themselves; by cost those of FLOPs, 1 on average over the open units."""
        if not self._by_cost:
            return self._fixed
        costs = self._costs.unit_shares("flops", keep)
        relative: npt.NDArray[np.float64] = costs / max(float(costs[keep].mean()), _LEAST)
        return relative


def _check(weights: Mapping[str, float], coupling: Coupling) -> None:
    names = [group.name for group in coupling.groups]
    for name, weight in weights.items():
        if name not in names:
            raise InputError(
                f"there is no group {name!r} to weight", hint=f"There are {', '.join(names)}."
            )
        if not weight > 0.0:
            raise InputError(f"the weight of group {name!r} is {weight:g}, not above 0")
