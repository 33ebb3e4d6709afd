"""Which channels go together: from the facts of a graph to groups of units, gate sites, reasons.

A *unit* is a set of (parameter, dimension, index) that is removed together. A *group* is all units
that touch the same dimensions of the same parameters: the channels of a layer, or of all layers
that a residual sum ties together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from vibfx.components import Norms, Units, find_components, staying
from vibfx.depth import Depth
from vibfx.gates import gates_of
from vibfx.graph import tensor_at, where
from vibfx.labels import LabelSpace, Slot, core
from vibfx.propagation import Propagation
from vibfx.rules.facts import Freeze
from vibfx.sites import Site, find_sites

STAYS = -1


@dataclass(frozen=True)
class Group:
    """Units of one kind.

    Attributes:
        name: The layer that makes the channels, the first one where several do; for features of an
            input the table that selects them.
        start: The number of the group's first unit.
        size: How many units there are: ``start`` to ``start + size - 1``.
        slots: The parameter dimensions that each of the units touches.
        sites: Names of the nodes behind which the group is gated.
    """

    name: str
    start: int
    size: int
    slots: tuple[Slot, ...]
    sites: tuple[str, ...]

    @property
    def units(self) -> slice:
        """The group's units among all units."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Frozen:
    """Indices of a parameter's dimension that cannot be removed, and why."""

    parameter: str
    dim: int
    count: int
    size: int
    reason: str
    where: str

    def __str__(self) -> str:
        return f"{self.parameter} dim {self.dim} ({self.count} of {self.size}): {self.reason}"


@dataclass(frozen=True)
class Coupling:
    """What can be removed from a graph.

    Attributes:
        groups: The groups, in the order of the graph.
        sites: Where the gates go.
        frozen: What stays, with reasons.
        unit_of: For every label its unit, ``STAYS`` for what stays.
        component: For every label the number of what lives and dies with it, removable or not.
        required: Sets of units of which at least one has to stay.
        depth: Which components may go together, beyond that.
        propagation: The labels of every node.
    """

    groups: tuple[Group, ...]
    sites: tuple[Site, ...]
    frozen: tuple[Frozen, ...]
    unit_of: Units
    component: Units
    required: tuple[Units, ...]
    depth: Depth
    propagation: Propagation

    @property
    def space(self) -> LabelSpace:
        """All labels."""
        return self.propagation.space

    @property
    def units(self) -> int:
        """How many units there are in all groups together."""
        return sum(group.size for group in self.groups)

    @property
    def group_of(self) -> Units:
        """For every unit the number of its group."""
        return np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])

    def units_of(self, slot: Slot) -> Units:
        """The unit of every index of a parameter's dimension."""
        return self.unit_of[slot.start : slot.start + slot.size]

    def gate_units(self, module: fx.GraphModule) -> dict[str, Units]:
        """For every gate of the gated graph that was analysed, the unit of each of its entries."""
        slots = {slot.parameter: slot for slot in self.space.slots}
        return {name: self.units_of(slots[f"{name}.mu"]) for name in gates_of(module)}

    def removable_share(self, module: fx.GraphModule) -> float:
        """The share of all parameter elements that lie in a removable unit, from 0 to 1."""
        stays: dict[str, float] = {}
        for slot in self.space.slots:
            share = float(np.mean(self.units_of(slot) == STAYS))
            stays[slot.parameter] = stays.get(slot.parameter, 1.0) * share
        sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
        total = sum(sizes.values())
        return 1.0 - sum(size * stays.get(name, 1.0) for name, size in sizes.items()) / total


def analyze(module: fx.GraphModule, *, norms: Norms | None = None) -> Coupling:
    """Find out what can be removed from a graph, exactly and index by index.

    Args:
        module: A traced graph; a gated one gives the same groups, its gates included.
        norms: Whether channels may go from under a norm or a mean that runs across them:
            ``"exact"`` (it is rewritten with its original denominator, and computes the same) or
            ``"freeze"`` (they stay, and the norm with them). By default as it was when the graph
            was gated, else ``"exact"``.

    Returns:
        Groups of units, gate sites, and what is frozen with reasons.
    """
    found = find_components(module, norms=norms)
    propagation, component = found.propagation, found.component
    stays = staying(propagation, component)
    depth = Depth(module, propagation, component, stays)
    needed = depth.inseparable()
    _freeze_undivided(propagation, component, needed)
    stays = staying(propagation, component)
    sites = find_sites(module, propagation, component, stays)
    gated = np.zeros(component.max() + 1, dtype=bool)
    for site in sites:
        gated[component[core(site.labels)[0].numpy()]] = True
    removable = gated[component] & ~stays
    groups, unit_of = _group(module, propagation.space, component, removable, sites)
    # Padding alone makes no unit: nothing of it is stored.
    sites = tuple(s for s in sites if (unit_of[core(s.labels)[0].numpy()] != STAYS).any())
    frozen = tuple(_frozen(propagation, component, unit_of))
    unit_of_component = np.full(component.max() + 1, STAYS, dtype=np.int64)
    unit_of_component[component] = unit_of
    at_least_one = [unit_of_component[numbers] for numbers in needed]
    required = tuple(units for units in at_least_one if (units != STAYS).all())
    return Coupling(groups, sites, frozen, unit_of, component, required, depth, propagation)


def _freeze_undivided(
    propagation: Propagation, component: Units, needed: list[npt.NDArray[np.int64]]
) -> None:
    """What can neither go nor be divided stays."""
    alone = [numbers[0] for numbers in needed if numbers.size == 1]
    reason = "all channels of a layer hang together, so that none of them can go alone"
    for labels in (np.flatnonzero(component == number) for number in alone):
        propagation.facts.freezes.append(Freeze(torch.from_numpy(labels), reason))


def _group(
    module: fx.GraphModule,
    space: LabelSpace,
    component: Units,
    removable: npt.NDArray[np.bool_],
    sites: tuple[Site, ...],
) -> tuple[tuple[Group, ...], Units]:
    """Number the removable components so that units of one kind stand together."""
    kinds = _kinds(module, space, component, removable)
    unit_of_component = np.full(component.max() + 1, STAYS, dtype=np.int64)
    group_of_component = np.full(component.max() + 1, STAYS, dtype=np.int64)
    start = 0
    for position, numbers in enumerate(kinds.values()):
        unit_of_component[numbers] = np.arange(start, start + len(numbers))
        group_of_component[numbers] = position
        start += len(numbers)
    nodes: list[list[str]] = [[] for _ in kinds]
    for site in sites:
        for position in np.unique(group_of_component[component[core(site.labels)[0].numpy()]]):
            if position != STAYS:
                nodes[position].append(site.node)
    groups: list[Group] = []
    taken: set[str] = set()
    for (kind, numbers), names in zip(kinds.items(), nodes, strict=True):
        slots = tuple(space.slots[s] for s in kind)
        name = _name(module, slots, taken)
        taken.add(name)
        first = int(unit_of_component[numbers[0]])
        groups.append(Group(name, first, len(numbers), slots, tuple(names)))
    unit_of = unit_of_component[component]
    unit_of[~removable] = STAYS
    return tuple(groups), unit_of


def _kinds(
    module: fx.GraphModule,
    space: LabelSpace,
    component: Units,
    removable: npt.NDArray[np.bool_],
) -> dict[tuple[int, ...], list[int]]:
    """The removable components by the slots that they touch, gates not counted."""
    gates = tuple(f"{name}." for name in gates_of(module))
    counted = [not (gates and slot.parameter.startswith(gates)) for slot in space.slots]
    slot_of = space.slot_of_label()
    labels = np.flatnonzero(removable[: len(space)])
    labels = labels[np.array([*counted, False])[slot_of[labels]]]
    if not labels.size:
        return {}
    slots = len(space.slots)
    pairs = np.sort(component[labels] * slots + slot_of[labels])
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]  # np.unique takes ten times as long
    owners = pairs // slots
    starts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
    numbers = owners[starts]
    first = np.full(component.max() + 1, len(space), dtype=np.int64)
    first[component[labels[::-1]]] = labels[::-1]  # the smallest, which is written last
    touched = (pairs % slots).tobytes()
    ends = [*(starts * pairs.itemsize).tolist(), len(touched)]
    names = numbers.tolist()
    kinds: dict[bytes, list[int]] = {}
    for position in np.argsort(first[numbers]).tolist():  # in the order of the graph
        kinds.setdefault(touched[ends[position] : ends[position + 1]], []).append(names[position])
    return {tuple(np.frombuffer(row, np.int64).tolist()): found for row, found in kinds.items()}


def _name(module: fx.GraphModule, slots: tuple[Slot, ...], taken: set[str]) -> str:
    """What makes the channels: the table that selects them, or the first layer by its rows."""
    tensors = {slot: tensor_at(module, slot.parameter) for slot in slots}
    tables = (slot for slot in slots if not tensors[slot].is_floating_point())
    makers = (slot for slot in slots if slot.dim == 0 and tensors[slot].dim() > 1)
    stem = next(chain(tables, makers, slots)).parameter
    stem = stem.removesuffix(".weight") or stem
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}:{number}"
    return name


def _frozen(propagation: Propagation, component: Units, unit_of: Units) -> Iterator[Frozen]:
    """What stays, slot by slot, with the reason that reaches it through its component."""
    reasons: dict[int, tuple[str, str]] = {}
    for freeze in propagation.facts.freezes:
        cause = freeze.reason, where(freeze.node) if freeze.node else ""
        for number in set(component[freeze.labels.numpy()].tolist()):
            reasons.setdefault(number, cause)
    unread = ("nothing that is computed sums over it", "")
    space = propagation.space
    labels = np.flatnonzero(unit_of[: len(space)] == STAYS)[1:]  # all but what always stays
    counts: dict[tuple[int, tuple[str, str]], int] = {}
    slots = space.slot_of_label()[labels].tolist()
    for position, number in zip(slots, component[labels].tolist(), strict=True):
        key = position, reasons.get(number, unread)
        counts[key] = counts.get(key, 0) + 1
    for (position, (reason, place)), count in counts.items():
        slot = space.slots[position]
        yield Frozen(slot.parameter, slot.dim, count, slot.size, reason, place)
