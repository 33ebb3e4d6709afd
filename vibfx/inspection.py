"""What a coupling says about a network, for people: groups with their shares, what stays and why.

A group *governs* what would go if all of its units went. A weight between two groups goes with
either, so it counts for both, and the shares of all groups may add up to more than what can be
removed in all.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import fx

from vibfx.costs import COUNTED, Cost, CostModel
from vibfx.coupling import Coupling, Group
from vibfx.frozen import Cause, FrozenDimension, Nodes, by_cause, frozen_dimensions
from vibfx.gates import gates_of
from vibfx.graph import where
from vibfx.labels import Slot
from vibfx.metrics import Measures, measure
from vibfx.sides import Sides, owner, sides_of

# In the order of the module; the values mean nothing.
Names = dict[str, None]


@dataclass(frozen=True)
class Dimension:
    """A dimension of a parameter, and how many of its indices a group's units take."""

    parameter: str
    dim: int
    indices: int


@dataclass(frozen=True)
class GroupSummary:
    """Channels that are removed together, for people.

    Attributes:
        name: The layer that makes the channels, the first one where several do.
        units: How many units there are.
        sites: Where the group is gated: the node, its module and the source line.
        makes: Layers whose outputs the units are.
        reads: Layers whose inputs the units are. A depthwise convolution is in both.
        carries: Layers that treat each unit on its own, such as norms.
        dimensions: The dimensions of parameters that the units lie in.
        params: The share of all parameters that goes if all units go, from 0 to 1.
        flops: The same of multiply-accumulates.
        overlaps: Names of the groups that share parameters with this one.
    """

    name: str
    units: int
    sites: tuple[str, ...]
    makes: tuple[str, ...]
    reads: tuple[str, ...]
    carries: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    params: float
    flops: float
    overlaps: tuple[str, ...]

    @property
    def joined(self) -> tuple[str, ...]:
        """The layers that the group joins: makers and readers, or else what carries it."""
        return tuple(dict.fromkeys(self.makes + self.reads)) or self.carries


@dataclass(frozen=True)
class Totals:
    """The whole network.

    Attributes:
        parameters: All parameters, gates not counted.
        flops: Multiply-accumulates of convolutions and linears for one example.
        removable_params: The share of the parameters that lie in a unit, from 0 to 1.
        removable_flops: The same of the multiply-accumulates.
        groups: How many groups there are.
        units: How many units there are in all groups together.
    """

    parameters: int
    flops: float
    removable_params: float
    removable_flops: float
    groups: int
    units: int


@dataclass(frozen=True)
class Inspection:
    """What can be removed from a network, what stays, and what that is worth.

    Attributes:
        model: The model's class.
        totals: The whole network.
        groups: The groups in the order of the graph.
        layers: Every layer that a group or a reason to stay concerns, in the order of the graph;
            norms and others that only carry channels are left out.
        frozen: What stays, in the order of the graph.
    """

    model: str
    totals: Totals
    groups: tuple[GroupSummary, ...]
    layers: tuple[str, ...]
    frozen: tuple[FrozenDimension, ...]

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What stays, by its cause."""
        return by_cause(self.frozen)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no number is infinite or undefined."""
        return asdict(self)


def inspect(module: fx.GraphModule, coupling: Coupling) -> Inspection:
    """Sum up what the analysis of a graph found.

    Args:
        module: A traced graph.
        coupling: What ``analyze`` found in it.

    Returns:
        Groups with what they govern, what stays with reasons, and totals.
    """
    measures = measure(module)
    sides = sides_of(module, [layer.weight for layer in measures.layers])
    shares = _Shares(module, coupling)
    nodes = {node.name: node for node in module.graph.nodes}
    own = _parameters(module)
    groups = tuple(_group(group, coupling, nodes, own, sides, shares) for group in coupling.groups)
    frozen = tuple(frozen_dimensions(coupling, nodes, own, sides))
    return Inspection(
        model=type(module).__name__,
        totals=_totals(measures, coupling, shares),
        groups=groups,
        layers=_layers(module, groups, frozen),
        frozen=frozen,
    )


class _Shares:
    """What removals take, as a share of the whole."""

    def __init__(self, module: fx.GraphModule, coupling: Coupling) -> None:
        self._costs = CostModel(module, coupling)
        self._all = np.ones(coupling.units, dtype=bool)
        self._full = {kind: self._costs.cost(kind, self._all) for kind in COUNTED}

    def without(self, units: slice, kind: Cost) -> float:
        """The share that goes if these units go, from 0 to 1."""
        if not self._full[kind]:
            return 0.0
        keep = self._all.copy()
        keep[units] = False
        return 1.0 - self._costs.cost(kind, keep) / self._full[kind]


def _totals(measures: Measures, coupling: Coupling, shares: _Shares) -> Totals:
    return Totals(
        parameters=measures.parameters,
        flops=measures.flops,
        removable_params=shares.without(slice(None), "params"),
        removable_flops=shares.without(slice(None), "flops"),
        groups=len(coupling.groups),
        units=coupling.units,
    )


def _group(
    group: Group, coupling: Coupling, nodes: Nodes, own: Names, sides: Sides, shares: _Shares
) -> GroupSummary:
    makes, reads, carries = _split(group, sides)
    slots = [slot for slot in group.slots if slot.parameter in own]
    touched = {slot.parameter for slot in slots}
    return GroupSummary(
        name=group.name,
        units=group.size,
        sites=tuple(where(nodes[site]) for site in group.sites),
        makes=makes,
        reads=reads,
        carries=carries,
        dimensions=tuple(
            Dimension(slot.parameter, slot.dim, _indices(coupling, group, slot)) for slot in slots
        ),
        params=shares.without(group.units, "params"),
        flops=shares.without(group.units, "flops"),
        overlaps=tuple(
            other.name
            for other in coupling.groups
            if other is not group and not touched.isdisjoint(slot.parameter for slot in other.slots)
        ),
    )


def _indices(coupling: Coupling, group: Group, slot: Slot) -> int:
    units = coupling.units_of(slot)
    return int(((units >= group.start) & (units < group.start + group.size)).sum())


def _split(group: Group, sides: Sides) -> tuple[tuple[str, ...], ...]:
    """The group's layers: those that make its channels, that read them, that carry them."""
    found: dict[str, dict[str, None]] = {"makes": {}, "reads": {}}
    for slot in group.slots:
        for side in sides.get((slot.parameter, slot.dim), ()):
            found[side][owner(slot.parameter)] = None
    # The bias of a layer that makes the channels says nothing new.
    named = {*found["makes"], *found["reads"]}
    rest = dict.fromkeys(owner(slot.parameter) for slot in group.slots)
    carries = tuple(layer for layer in rest if layer not in named)
    return tuple(found["makes"]), tuple(found["reads"]), carries


def _parameters(module: fx.GraphModule) -> Names:
    """The names of all parameters but the gates', in the order of the module."""
    gates = tuple(f"{name}." for name in gates_of(module)) or ("\0",)
    return dict.fromkeys(n for n, _ in module.named_parameters() if not n.startswith(gates))


def _layers(
    module: fx.GraphModule, groups: tuple[GroupSummary, ...], frozen: tuple[FrozenDimension, ...]
) -> tuple[str, ...]:
    concerned = {layer for group in groups for layer in group.joined}
    carried = {layer for group in groups for layer in group.carries}
    # A norm that stays with other layers only says again what they say.
    own = {row.layer for row in frozen if row.side != "carries" or not row.through}
    concerned |= own - carried
    order = [
        owner(str(node.target))
        for node in module.graph.nodes
        if node.op == "get_attr" and node.users
    ]
    order.extend(map(owner, _parameters(module)))
    return tuple(dict.fromkeys(layer for layer in order if layer in concerned))
