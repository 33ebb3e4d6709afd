"""Widths in whole steps, as the runtime computes them: of what is no whole step it makes one."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vibfx.budgets import filled
from vibfx.coupling import Coupling, Group
from vibfx.planning import Keep, cover

USED_UP = 0.97
"""The share of a budget from which on it counts as used up."""

Scores = npt.NDArray[np.float64]


def rounded(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    coupling: Coupling,
    steps: Sequence[int],
    weights: Scores,
) -> Keep:
    """Move the widths of groups to whole steps, within all budgets.

    Every group goes down to whole steps, but one narrower than a step stays. Whole steps then fill
    what that leaves of the budgets, those first whose information is worth most on average; and
    then single units of groups without steps. Where less than 97 % is used up then, groups are
    filled up by single units, one after the other, those first that use up most, so that few have
    a width between two steps. All widths stay where not even that uses up as much, or where fewer
    units cost more, as milliseconds may.

    Args:
        keep: The units that are open, within the budgets.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        within: Whether a choice of units is within all budgets.
        used: The share of the budget that binds which it uses up, from 0 to 1.
        coupling: The groups.
        steps: For every group its step in units; its full width counts as whole.
        weights: What the information of each unit is worth for what it uses of the budgets.
    """
    stepped = [(g, step) for g, step in zip(coupling.groups, steps, strict=True) if step > 1]
    if not stepped:
        return keep
    any_width, keep = keep, keep.copy()
    for group, step in stepped:
        keep[_beyond_steps(keep, scores, group, step)] = False
    keep = _filled_by_steps(cover(coupling, keep, scores), scores, within, stepped, weights)
    group_of = coupling.group_of
    waiting = np.array(steps)[group_of] > 1
    keep = filled(keep, _best_first(scores, ~keep & ~waiting), within, coupling)
    while used(keep) < USED_UP and (shut := np.unique(group_of[~keep & waiting])).size:
        ways = []
        for group in shut:
            own = _best_first(scores, ~keep & (group_of == group))
            ways.append(filled(keep, own, within, coupling))
        best = int(np.argmax([used(way) for way in ways]))
        keep, waiting = ways[best], waiting & (group_of != shut[best])
    is_as_good = within(keep) and used(keep) >= min(USED_UP, used(any_width))
    return keep if is_as_good else any_width


def rounded_up(keep: Keep, scores: Scores, coupling: Coupling, steps: Sequence[int]) -> Keep:
    """Open units up to the next whole step of each group that is wider than one.

    Args:
        keep: The units that are open.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        coupling: The groups.
        steps: For every group its step in units; its full width counts as whole.
    """
    keep = keep.copy()
    for group, step in zip(coupling.groups, steps, strict=True):
        width = int(keep[group.units].sum())
        if width > step and width % step:
            keep[_next_step(keep, scores, group, step)] = True
    return keep


def _filled_by_steps(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    stepped: Sequence[tuple[Group, int]],
    weights: Scores,
) -> Keep:
    waiting = list(stepped)
    while waiting:
        chunks = [_next_step(keep, scores, *entry) for entry in waiting]
        # What the objective counts of a unit, log(1 + alpha), so that one that is as shut as can be
        # weighs no more than one that is just shut.
        information = weights * np.logaddexp(0, scores)
        worth = [information[chunk].mean() if chunk else -np.inf for chunk in chunks]
        best = int(np.argmax(worth))
        more = keep.copy()
        more[chunks[best]] = True
        if chunks[best] and within(more):
            keep = more
        else:
            del waiting[best]
    return keep


def _beyond_steps(keep: Keep, scores: Scores, group: Group, step: int) -> list[int]:
    """The worst open units of a group that are more than whole steps, if it has one."""
    own = group.start + np.flatnonzero(keep[group.units])
    if own.size < step or own.size == group.size:
        return []
    worst = own[np.argsort(scores[own])]
    return [int(unit) for unit in worst[: own.size % step]]


def _next_step(keep: Keep, scores: Scores, group: Group, step: int) -> list[int]:
    """The best shut units of a group up to its next whole step; none where they do not suffice."""
    width = int(keep[group.units].sum())
    wanted = min(step * (width // step + 1), group.size) - width
    own = np.zeros(keep.size, dtype=bool)
    own[group.units] = True
    shut = _best_first(scores, own & ~keep)
    return shut[:wanted] if len(shut) >= wanted else []


def _best_first(scores: Scores, chosen: Keep) -> list[int]:
    """Those of the chosen units that can be opened, the best ones first."""
    units = np.flatnonzero(chosen & np.isfinite(scores))
    return [int(unit) for unit in units[np.argsort(-scores[units], kind="stable")]]
