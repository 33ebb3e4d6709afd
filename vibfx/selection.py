"""Which units are open, by their scores, so that budgets are just met."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from vibfx.coupling import Coupling
from vibfx.planning import Keep, cover


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
