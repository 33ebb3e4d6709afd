"""Widths in whole steps, as the runtime computes them: of what is no whole step it makes one."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vibfx.coupling import Coupling, Group
from vibfx.planning import Keep, cover
from vibfx.selection import filled

USED_UP = 0.97
"""The share of a budget from which on it counts as used up."""

# Widths that are no multiple of it are computed without blocks, and take much longer.
_ALIGNED = 4

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

    Every group goes down to whole steps, one narrower than a step to fours. Whole steps then fill
    what that leaves of the budgets: first of groups that have a width between two steps, then those
    whose information is worth most on average; and then single units of groups without steps. Where
    less than 97 % is used up then, groups are filled up by fours: the smallest that will do, for
    layers with such a width take longer; where none will, first the one that uses up most, so that
    they are few. Where fours do not suffice, a single group gets any width; where not even that,
    several do. All widths stay where that uses up less, or where fewer units cost more, as
    milliseconds may.

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
    single = np.array(steps)[coupling.group_of] == 1
    keep = filled(keep, _best_first(scores, ~keep & single), within, coupling)
    keep = _between_steps(keep, scores, within, used, stepped)
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


def aligned(keep: Keep, scores: Scores, coupling: Coupling) -> Keep:
    """Open units up to the next multiple of 4 of each group, whose layers are then faster.

    Args:
        keep: The units that are open.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        coupling: The groups.
    """
    keep = keep.copy()
    for group in coupling.groups:
        if int(keep[group.units].sum()) % _ALIGNED:
            keep[_next_step(keep, scores, group, _ALIGNED)] = True
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
        between = [int(keep[group.units].sum()) % step > 0 for group, step in waiting]
        best = max(range(len(waiting)), key=list(zip(between, worth, strict=True)).__getitem__)
        more = keep.copy()
        more[chunks[best]] = True
        if chunks[best] and within(more):
            keep = more
        else:
            del waiting[best]
    return keep


def _between_steps(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    stepped: Sequence[tuple[Group, int]],
) -> Keep:
    """Use the budgets up with widths that are no whole steps, of which few are no fours either."""
    fours, singly = (
        [(group, math.gcd(step, finer)) for group, step in stepped] for finer in (_ALIGNED, 1)
    )
    by_fours = _used_up(keep, scores, within, used, fours)
    if used(by_fours) >= USED_UP:
        return by_fours
    _, alone = _filled_up(keep, scores, within, used, singly)
    return alone if used(alone) >= USED_UP else _used_up(by_fours, scores, within, used, singly)


def _used_up(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    between: Sequence[tuple[Group, int]],
) -> Keep:
    """Fill groups up, as few and as small ones as will do, in steps that are no whole ones."""
    waiting = list(between)
    while waiting and used(keep) < USED_UP:
        best, keep = _filled_up(keep, scores, within, used, waiting)
        del waiting[best]
    return keep


def _filled_up(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    waiting: Sequence[tuple[Group, int]],
) -> tuple[int, Keep]:
    """Fill one of these groups up: the smallest that will do, else the one that uses up most."""
    now, even = used(keep), np.ones(keep.size)
    ways = [_filled_by_steps(keep, scores, within, [entry], even) for entry in waiting]
    uses = [used(way) for way in ways]
    enough = [number for number, use in enumerate(uses) if use >= USED_UP]
    sizes = {number: now - used(_without(keep, waiting[number][0])) for number in enough}
    best = min(enough, key=sizes.__getitem__) if enough else int(np.argmax(uses))
    return best, ways[best]


def _without(keep: Keep, group: Group) -> Keep:
    keep = keep.copy()
    keep[group.units] = False
    return keep


def _beyond_steps(keep: Keep, scores: Scores, group: Group, step: int) -> list[int]:
    """The worst open units of a group that are more than whole steps, if it has one."""
    own = group.start + np.flatnonzero(keep[group.units])
    step = step if own.size >= step else math.gcd(step, _ALIGNED)
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
