"""The plan: which indices of which parameter stay. Independent of the weights, readable, JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx

from vibfx.architecture import Architecture, parameter_shapes
from vibfx.components import Units
from vibfx.coupling import STAYS, Coupling, analyze
from vibfx.errors import PlanError
from vibfx.gates import gates_of

FORMAT_VERSION = 1

Keep = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GroupPlan:
    """What becomes of one group.

    Attributes:
        name: The layer that makes the channels.
        units: How many there were.
        kept: Which of them stay.
        sites: The nodes behind which the group was gated.
        layers: The parameters that the group's units touch.
        log_alpha: ``log(mu^2 / sigma^2)`` of every unit's gate; empty where there was no gate.
            Minus infinity (a gate with ``mu`` 0) is written as null.
    """

    name: str
    units: int
    kept: tuple[int, ...]
    sites: tuple[str, ...]
    layers: tuple[str, ...]
    log_alpha: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class PruningPlan:
    """Which indices of which parameter dimension stay.

    Attributes:
        parameters: ``{name: {dim: kept indices}}`` for every parameter and buffer that loses any.
        shapes: The full shapes of those and of all other parameters.
        groups: The groups behind it, with what their gates said.
        architecture: The network that it was made from, to recognise one that it is not for.
    """

    parameters: Mapping[str, Mapping[int, tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupPlan, ...]
    architecture: Architecture = field(default_factory=Architecture)

    def to_json(self) -> str:
        """The plan as text that ``from_json`` reads back to an equal plan."""
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "PruningPlan":
        """Read a plan.

        Raises:
            PlanError: The text is no plan, or one of a later format.
        """
        try:
            fields = json.loads(text)
            if (version := fields["format"]) != FORMAT_VERSION:
                raise PlanError(
                    f"the plan has format {version}, this version reads {FORMAT_VERSION}"
                )
            return cls(
                parameters={
                    name: {int(dim): tuple(map(int, kept)) for dim, kept in dims.items()}
                    for name, dims in fields["parameters"].items()
                },
                shapes={name: tuple(map(int, s)) for name, s in fields["shapes"].items()},
                groups=tuple(_group_from(entry) for entry in fields["groups"]),
                architecture=Architecture.from_fields(fields["architecture"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise PlanError(f"this is not a pruning plan ({error!r})") from error

    def save(self, path: str | Path) -> None:
        """Write the plan to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Read a plan from a file.

        Raises:
            PlanError: The file cannot be read or holds no plan.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError("the plan cannot be read", where=str(path)) from error

    @property
    def removed_units(self) -> int:
        """How many units go, over all groups."""
        return sum(group.units - len(group.kept) for group in self.groups)


def _group_from(entry: dict[str, Any]) -> GroupPlan:
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return GroupPlan(**listed)


def plan(gated: fx.GraphModule) -> PruningPlan:
    """The plan that a gated graph's gates ask for: units whose gate is shut go.

    A block may lose all its units and goes then, a constant a channel being left of it. Where the
    graph needs at least one unit, the one with the largest ``log_alpha`` stays.

    Args:
        gated: A graph with gates.

    Returns:
        The plan.

    Raises:
        PlanError: The graph has no gates.
    """
    gates = gates_of(gated)
    if not gates:
        raise PlanError("the graph has no gates", hint="Insert them with InsertGates first.")
    coupling = analyze(gated)
    scores = unit_log_alpha(gated, coupling)
    keep = np.ones(coupling.units, dtype=bool)
    for name, units in coupling.gate_units(gated).items():
        is_open = gates[name].open().cpu().numpy()
        keep[units[~is_open & (units != STAYS)]] = False
    return plan_units(gated, coupling, keep, scores)


def unit_log_alpha(gated: fx.GraphModule, coupling: Coupling) -> npt.NDArray[np.float64]:
    """``log(mu^2 / sigma^2)`` of every unit, from its gate."""
    values = {name: gate.log_alpha() for name, gate in gates_of(gated).items()}
    return best_of_entries(values, coupling.gate_units(gated), coupling.units)


def best_of_entries(
    values: Mapping[str, Tensor], entries: Mapping[str, Units], units: int
) -> npt.NDArray[np.float64]:
    """For every unit the largest value that its gates' entries have; -inf where it has none.

    Args:
        values: For every gate a value an entry.
        entries: For every gate the unit of each of its entries.
        units: How many units there are.
    """
    best = np.full(units, -np.inf)
    for name, governed in entries.items():
        free = governed != STAYS
        found = values[name].detach().double().cpu().numpy()
        np.maximum.at(best, governed[free], found[free])
    return best


def plan_units(
    module: fx.GraphModule,
    coupling: Coupling,
    keep: Keep,
    scores: npt.NDArray[np.float64] | None = None,
) -> PruningPlan:
    """The plan that keeps the given units.

    Args:
        module: The graph that was analysed.
        coupling: What the analysis found.
        keep: For every unit whether it stays.
        scores: What a unit is worth; decides which one stays where all of a dimension would go,
            and is noted in the plan.
    """
    keep = cover(coupling, keep, scores)
    parameters: dict[str, dict[int, tuple[int, ...]]] = {}
    gates = gates_of(module)
    for slot in coupling.space.slots:
        kept = np.flatnonzero(_stays(coupling.units_of(slot), keep))
        if kept.size < slot.size and slot.parameter.rpartition(".")[0] not in gates:
            parameters.setdefault(slot.parameter, {})[slot.dim] = tuple(kept.tolist())
    groups = tuple(
        GroupPlan(
            name=group.name,
            units=group.size,
            kept=tuple(np.flatnonzero(keep[group.units]).tolist()),
            sites=group.sites,
            layers=tuple(dict.fromkeys(slot.parameter for slot in group.slots)),
            log_alpha=() if scores is None else tuple(map(_finite, scores[group.units])),
        )
        for group in coupling.groups
    )
    shapes = parameter_shapes(module, also=parameters)
    return PruningPlan(parameters, shapes, groups, Architecture.of(module))


def cover(coupling: Coupling, keep: Keep, scores: npt.NDArray[np.float64] | None = None) -> Keep:
    """Bring units back until the graph stays valid.

    One of each set that cannot go as a whole. Then, where sets went that cannot all go (branches
    that run side by side), the best of all their units, one by one, until the input gets through.

    Args:
        coupling: What the analysis found.
        keep: For every unit whether it stays; not changed.
        scores: What a unit is worth; the best ones come back.

    Returns:
        For every unit whether it stays now.
    """
    keep = keep.copy()
    worth = np.zeros(coupling.units) if scores is None else scores
    for units in coupling.required:
        if not keep[units].any():
            keep[units[np.argmax(worth[units])]] = True
    unit_of = np.full(coupling.component.max() + 1, STAYS, dtype=np.int64)
    unit_of[coupling.component] = coupling.unit_of
    while not coupling.depth.may_go(gone := _gone(coupling, keep)):
        units = unit_of[coupling.depth.emptying(gone)]
        keep[units[np.argmax(worth[units])]] = True
    return keep


def _gone(coupling: Coupling, keep: Keep) -> frozenset[int]:
    """The components that go with the units that do not stay."""
    gone = ~_stays(coupling.unit_of, keep)
    return frozenset(np.unique(coupling.component[gone]).tolist())


def _stays(units: Units, keep: Keep) -> Keep:
    return np.append(keep, True)[units]  # STAYS is the last one


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
