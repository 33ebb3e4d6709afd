"""Two plans of one network, group by group."""

import re
from dataclasses import dataclass

from vibfx.architecture import first_difference
from vibfx.errors import PlanError
from vibfx.planning import GroupPlan, PruningPlan


@dataclass(frozen=True)
class GroupDiff:
    """What two plans keep of one group.

    Attributes:
        name: The group's name.
        units: How many units it has.
        first: How many of them the first plan keeps.
        second: How many the second one keeps.
        both: How many both keep.
    """

    name: str
    units: int
    first: int
    second: int
    both: int


@dataclass(frozen=True)
class PlanDiff:
    """Where two plans differ.

    Attributes:
        groups: All groups of either plan. One that only the other plan knows is kept whole: there
            it was not removable, as under norms that are left alone.
        only_first: The parameters that only the first plan cuts.
        only_second: Those that only the second one cuts.
    """

    groups: tuple[GroupDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def diff(first: PruningPlan, second: PruningPlan) -> PlanDiff:
    """Compare two plans of networks of one architecture, whatever their weights.

    Raises:
        PlanError: They are of different architectures; names where these part.
    """
    found = first_difference(
        (_shapes(first, second), first.architecture.operations),
        (_shapes(second, first), second.architecture.operations),
    )
    if found is not None:
        raise PlanError(
            "the plans are of different architectures: the first one has "
            f"{found.first} where the second one has {found.second}",
            where=found.name,
        )
    named = [{group.name: group for group in plan.groups} for plan in (first, second)]
    groups = (
        _group(named[0].get(name), named[1].get(name))
        for name in dict.fromkeys((*named[0], *named[1]))
    )
    return PlanDiff(
        tuple(groups),
        tuple(name for name in first.parameters if name not in second.parameters),
        tuple(name for name in second.parameters if name not in first.parameters),
    )


def _shapes(plan: PruningPlan, other: PruningPlan) -> dict[str, tuple[int, ...]]:
    """The shapes that both plans should know: of a buffer only a plan that cuts it knows one."""
    read = {name for line in other.architecture.operations for name in re.split(r"[(), ]+", line)}
    return {
        name: shape
        for name, shape in plan.shapes.items()
        if name in other.shapes or name not in read
    }


def _group(first: GroupPlan | None, second: GroupPlan | None) -> GroupDiff:
    known = first or second
    assert known is not None
    kept = [set(range(known.units)) if g is None else set(g.kept) for g in (first, second)]
    counts = len(kept[0]), len(kept[1]), len(kept[0] & kept[1])
    return GroupDiff(known.name, known.units, *counts)
