"""Widths in whole steps, as the runtime computes them: of what is no whole step it makes one."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vibfx.coupling import Coupling, Group
from vibfx.latency import Step
from vibfx.latency.steps import ALIGNED
from vibfx.planning import Keep, cover
from vibfx.selection import filled

USED_UP = 0.97
"""The share of a budget from which on it counts as used up."""

# The share of what the units are worth that an exchange has to leave.
_WORTH = 0.95

# The share of the units of a group without steps that make room for steps of others.
_GIVES_WAY = 0.1

# So many exchanges of steps are tried.
_MOST_EXCHANGES = 300

Scores = npt.NDArray[np.float64]
Stepped = tuple[Group, Step]


def rounded(
    keep: Keep,
    scores: Scores,
    within: Callable[[Keep], bool],
    used: Callable[[Keep], float],
    coupling: Coupling,
    steps: Sequence[Step],
    worth: Scores,
) -> Keep:
    """Move the widths of groups to whole steps, within all budgets.

    Every group goes down to whole steps, one narrower than a step to fours. Whole steps then fill
    what that leaves of the budgets: first those that bring units back, of groups that have a width
    between two steps before others, and of those whose information is worth most on average; then
    single units of groups without steps; then any. Where less than 97 % is used up, a group gets a
    step that others pay for. Where that does not suffice, groups are filled up by fours: the
    smallest that will do, for layers with such a width take longer; where none will, first the one
    that uses up most, so that they are few. Where fours do not suffice, a single group gets any
    width; where not even that, several do. All widths stay where that uses up less, or where fewer
    units cost more, as milliseconds may.

    Args:
        keep: The units that are open, within the budgets.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        within: Whether a choice of units is within all budgets.
        used: The share of the budget that binds which it uses up, from 0 to 1.
        coupling: The groups.
        steps: For every group which widths are whole; its full one is in any case.
        worth: What each unit is worth, see ``worth_of_units``.
    """
    if all(step.size == 1 for step in steps):
        return keep
    moves = _Moves(scores, within, used, worth)
    at_least = min(USED_UP, used(keep))
    ways = _ways(keep, coupling, steps, moves)
    return next((way for way in ways if within(way) and used(way) >= at_least), keep)


def worth_of_units(scores: Scores, weights: Scores) -> Scores:
    """What the objective counts of each unit, ``log(1 + alpha)``, times what that is worth.

    So one that is as shut as can be weighs no more than one that is just shut.

    Args:
        scores: ``log_alpha`` of every unit.
        weights: What its information is worth for what it uses of the budgets.
    """
    worth: Scores = weights * np.logaddexp(0, scores)
    return worth


def _ways(
    landed: Keep, coupling: Coupling, steps: Sequence[Step], moves: "_Moves"
) -> Iterator[Keep]:
    """From whole steps alone to more and more widths that are none."""
    every = list(zip(coupling.groups, steps, strict=True))
    stepped = [(group, step) for group, step in every if step.size > 1]
    fours, singles = ([(g, step.finer(size)) for g, step in stepped] for size in (ALIGNED, 1))
    keep = landed.copy()
    for entry in every:
        keep[moves.beyond_steps(keep, *entry)] = False
    keep = cover(coupling, keep, moves.scores)
    keep = moves.filled_by_steps(keep, stepped, only=landed)
    single = np.array([step.size for step in steps])[coupling.group_of] == 1
    for those in (single & landed, single):
        order = moves.best_first(~keep & those)
        keep = moves.filled_by_steps(filled(keep, order, moves.within, coupling), stepped)
    yield keep
    yield (keep := moves.exchanged(keep, stepped))
    yield (by_fours := moves.used_up(keep, fours))
    yield (by_fours := moves.exchanged(by_fours, fours))
    yield moves.filled_up(keep, singles)[1]
    yield moves.used_up(by_fours, singles)


def rounded_up(keep: Keep, scores: Scores, coupling: Coupling, steps: Sequence[Step]) -> Keep:
    """Open units up to the next whole step of each group that is wider than one.

    Args:
        keep: The units that are open.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        coupling: The groups.
        steps: For every group which widths are whole; its full one is in any case.
    """
    keep = keep.copy()
    for group, step in zip(coupling.groups, steps, strict=True):
        width = int(keep[group.units].sum())
        if width > step.size and not step.is_whole(width):
            keep[_next_step(keep, scores, group, step)] = True
    return keep


def aligned(keep: Keep, scores: Scores, coupling: Coupling, steps: Sequence[Step]) -> Keep:
    """Open units up to the next multiple of 4 of each group that is not slow.

    Args:
        keep: The units that are open.
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        coupling: The groups.
        steps: For every group which widths are slow.
    """
    keep = keep.copy()
    for group, step in zip(coupling.groups, steps, strict=True):
        fours = replace(step, size=ALIGNED)
        if not fours.is_whole(int(keep[group.units].sum())):
            keep[_next_step(keep, scores, group, fours)] = True
    return keep


@dataclass(frozen=True)
class _Moves:
    """What widths are moved by, and the ways in which they are.

    Attributes:
        scores: ``log_alpha`` of every unit; those at minus infinity are never opened.
        within: Whether a choice of units is within all budgets.
        used: The share of the budget that binds which it uses up.
        worth: What each unit is worth.
    """

    scores: Scores
    within: Callable[[Keep], bool]
    used: Callable[[Keep], float]
    worth: Scores

    def worth_of(self, keep: Keep) -> float:
        """What these units are worth together."""
        return float(self.worth[keep].sum())

    def best_first(self, chosen: Keep) -> list[int]:
        """Those of the chosen units that can be opened."""
        return _best_first(self.scores, chosen)

    def beyond_steps(self, keep: Keep, group: Group, step: Step) -> list[int]:
        """The worst open units of a group that are more than whole steps; some single ones."""
        width = int(keep[group.units].sum())
        if step.size == 1:
            return _worst(keep, self.scores, group, int(_GIVES_WAY * width))
        is_full = width == group.size
        return _worst(keep, self.scores, group, 0 if is_full else width - step.at_most(width))

    def filled_by_steps(
        self, keep: Keep, stepped: Sequence[Stepped], only: Keep | None = None
    ) -> Keep:
        """Open steps for as long as they are within the budgets, and hold one of some units."""
        waiting = list(stepped)
        while waiting:
            chunks = [_next_step(keep, self.scores, *entry) for entry in waiting]
            if only is not None:
                chunks = [chunk if only[chunk].any() else [] for chunk in chunks]
            means = [self.worth[chunk].mean() if chunk else -np.inf for chunk in chunks]
            between = [not step.is_whole(int(keep[group.units].sum())) for group, step in waiting]
            best = max(range(len(waiting)), key=list(zip(between, means, strict=True)).__getitem__)
            more = keep.copy()
            more[chunks[best]] = True
            if chunks[best] and self.within(more):
                keep = more
            else:
                del waiting[best]
        return keep

    def exchanged(self, keep: Keep, stepped: Sequence[Stepped]) -> Keep:
        """Give a group a step that others pay for, where that uses more up; the best that does."""
        if self.used(keep) >= USED_UP:
            return keep
        choices = [keep]
        payers = itertools.chain(
            itertools.combinations(stepped, 1), itertools.combinations_with_replacement(stepped, 2)
        )
        for less, more in itertools.islice(itertools.product(payers, stepped), _MOST_EXCHANGES):
            other = keep.copy()
            other[_next_step(other, self.scores, *more)] = True
            for entry in less:
                other[_last_step(other, self.scores, *entry)] = False
            other = self._shed(other, [entry for entry in stepped if entry is not more])
            choices.append(self.filled_by_steps(other, stepped))
        at_least = _WORTH * self.worth_of(keep)

        def merits(choice: Keep) -> tuple[bool, float, float]:
            worth = self.worth_of(choice)
            return worth >= at_least, min(self.used(choice), USED_UP), worth

        return max(filter(self.within, choices), key=merits)

    def _shed(self, keep: Keep, stepped: Sequence[Stepped]) -> Keep:
        """Take the steps whose units tell least on average, until it is within the budgets."""
        while not self.within(keep):
            chunks = [_last_step(keep, self.scores, *entry) for entry in stepped]
            means = [self.worth[chunk].mean() if chunk else np.inf for chunk in chunks]
            if not any(chunks):
                break
            keep = keep.copy()
            keep[chunks[int(np.argmin(means))]] = False
        return keep

    def used_up(self, keep: Keep, between: Sequence[Stepped]) -> Keep:
        """Fill groups up, as few and as small ones as will do, in steps that are no whole ones."""
        waiting = list(between)
        while waiting and self.used(keep) < USED_UP:
            best, keep = self.filled_up(keep, waiting)
            del waiting[best]
        return keep

    def filled_up(self, keep: Keep, waiting: Sequence[Stepped]) -> tuple[int, Keep]:
        """Fill one of these groups up: the smallest that will do, else what uses up most."""
        ways = [self.filled_by_steps(keep, [entry]) for entry in waiting]
        uses = [self.used(way) for way in ways]
        enough = [number for number, use in enumerate(uses) if use >= USED_UP]
        size = {number: -self.used(_without(keep, waiting[number][0])) for number in enough}
        best = min(enough, key=size.__getitem__) if enough else int(np.argmax(uses))
        return best, ways[best]


def _without(keep: Keep, group: Group) -> Keep:
    keep = keep.copy()
    keep[group.units] = False
    return keep


def _last_step(keep: Keep, scores: Scores, group: Group, step: Step) -> list[int]:
    """The worst open units of a group down to its next whole width; none where it would go."""
    width = int(keep[group.units].sum())
    less = step.at_most(width - 1) if width > 1 else width
    return _worst(keep, scores, group, width - less) if step.is_whole(less) else []


def _worst(keep: Keep, scores: Scores, group: Group, count: int) -> list[int]:
    own = group.start + np.flatnonzero(keep[group.units])
    return [int(unit) for unit in own[np.argsort(scores[own])][:count]]


def _next_step(keep: Keep, scores: Scores, group: Group, step: Step) -> list[int]:
    """The best shut units of a group up to its next whole step; none where they do not suffice."""
    width = int(keep[group.units].sum())
    wanted = min(step.above(width), group.size) - width
    own = np.zeros(keep.size, dtype=bool)
    own[group.units] = True
    shut = _best_first(scores, own & ~keep)
    return shut[:wanted] if len(shut) >= wanted else []


def _best_first(scores: Scores, chosen: Keep) -> list[int]:
    """Those of the chosen units that can be opened, the best ones first."""
    units = np.flatnonzero(chosen & np.isfinite(scores))
    return [int(unit) for unit in units[np.argsort(-scores[units], kind="stable")]]
