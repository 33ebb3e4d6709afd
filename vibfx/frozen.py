"""What stays and why, in words a user understands.

The direct cause lies at one node: the model's output, an op without a rule. From there it reaches
whatever is tied to the channels there, often through a residual sum to layers far away. Those are
reported with the layers that the cause meets first, going back from its node.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from vibfx.coupling import Coupling
from vibfx.sides import IN, Place, Side, Sides, owner

Nodes = Mapping[str, fx.Node]
# What stays because of one cause, and how many indices there are along it.
Widths = dict[Place, int]


@dataclass(frozen=True)
class FrozenDimension:
    """Indices of a parameter's dimension that stay, and why.

    Attributes:
        parameter: The parameter's name.
        layer: The module it belongs to.
        dim: The dimension.
        count: How many of its indices stay for this reason.
        size: How many indices there are.
        side: What the layer does with these channels: it ``makes``, ``reads`` or ``carries`` them.
        reason: Why, at the place where the reason lies.
        where: That place: node, module and source line; empty where it is no single place.
        through: The layers by which the reason comes to this one; empty if it lies right here.
    """

    parameter: str
    layer: str
    dim: int
    count: int
    size: int
    side: Side
    reason: str
    where: str
    through: tuple[str, ...]

    def __str__(self) -> str:
        """One sentence."""
        tied = f" with {', '.join(self.through)}" if self.through else ""
        place = f", at {self.where}" if self.where else ""
        stays = f"{self.parameter} dim {self.dim} ({self.count} of {self.size}) stays{tied}"
        return f"{stays}: {self.reason}{place}"


@dataclass(frozen=True)
class Cause:
    """One reason to stay at one place, and all that stays because of it."""

    reason: str
    where: str
    rows: tuple[FrozenDimension, ...]


def by_cause(rows: Iterable[FrozenDimension]) -> tuple[Cause, ...]:
    """Gather what stays by its cause; what the cause lies at comes first, then what it reaches."""
    found: dict[tuple[str, str], list[FrozenDimension]] = {}
    for row in rows:
        found.setdefault((row.reason, row.where), []).append(row)
    return tuple(
        Cause(*cause, tuple(sorted(stays, key=lambda row: bool(row.through))))
        for cause, stays in found.items()
    )


def frozen_dimensions(
    coupling: Coupling, nodes: Nodes, parameters: Container[str], sides: Sides
) -> Iterator[FrozenDimension]:
    """What stays of the parameters, and by way of which layers.

    What a norm remembers in buffers is left out: it stays as its parameters do.

    Args:
        coupling: What ``analyze`` found.
        nodes: The graph's nodes by name.
        parameters: The names of the parameters to report on.
        sides: What the dimensions of weights do.

    Yields:
        One row for each dimension and reason, in the order of the graph.
    """
    places: dict[tuple[str, str], Widths] = {}
    for entry in coupling.frozen:
        widths = places.setdefault((entry.reason, entry.where), {})
        widths[entry.parameter, entry.dim] = entry.size
    nearest = {
        # A place begins with the name of its node.
        (reason, place): _nearest(nodes.get(place.split(" ")[0]), stays, sides)
        for (reason, place), stays in places.items()
    }
    for entry in coupling.frozen:
        if entry.parameter in parameters:
            layers = nearest[entry.reason, entry.where]
            yield FrozenDimension(
                parameter=entry.parameter,
                layer=owner(entry.parameter),
                dim=entry.dim,
                count=entry.count,
                size=entry.size,
                side=next(iter(sides.get((entry.parameter, entry.dim), ())), "carries"),
                reason=entry.reason,
                where=entry.where,
                through=layers.reaching((entry.parameter, entry.dim), entry.size, sides),
            )


@dataclass(frozen=True)
class _Nearest:
    """Where a reason to stay lies.

    Attributes:
        layers: The layers that it reaches first, each with the widths at which something of it
            stays; empty where it has no single place.
        here: Whether the node that is the reason reads these layers' parameters itself.
    """

    layers: Mapping[str, Container[int]] = field(default_factory=dict)
    here: bool = False

    def reaching(self, place: Place, size: int, sides: Sides) -> tuple[str, ...]:
        """The layers by which the reason comes to this dimension; empty if it lies right there."""
        own = owner(place[0])
        if own in self.layers and (self.here or sides.get(place) != IN):
            return ()
        others = {layer: widths for layer, widths in self.layers.items() if layer != own}
        # A model may have several outputs, and this dimension goes with those of its own width;
        # behind a flatten it has another.
        alike = tuple(layer for layer, widths in others.items() if size in widths)
        return alike or tuple(others)


def _nearest(node: fx.Node | None, places: Widths, sides: Sides) -> _Nearest:
    """The layers that a reason to stay reaches first, going back from its node.

    Args:
        node: Where the reason lies; None where it has no single place.
        places: The dimensions that stay because of it, with their sizes.
        sides: What the dimensions of weights do.

    Returns:
        Layers that make what stays, or else that carry it; those of the node itself if it reads
        any of the parameters.
    """
    if node is None:
        return _Nearest()
    own = _read(node, {parameter for parameter, _ in places})
    if own:
        return _Nearest(_owners(own, places), here=True)
    makers = {place[0] for place in places if "makes" in sides.get(place, ())}
    carriers = {place[0] for place in places if place not in sides}
    weights = {parameter for parameter, _ in sides}
    found = _upstream(node, makers, weights) or _upstream(node, carriers, weights)
    made = {place: size for place, size in places.items() if sides.get(place) != IN}
    return _Nearest(_owners(found, made))


def _owners(parameters: Iterable[str], places: Widths) -> dict[str, set[int]]:
    """The layers of these parameters, with the sizes of what stays of the parameters."""
    found: dict[str, set[int]] = {}
    for name in parameters:
        sizes = {size for (parameter, _), size in places.items() if parameter == name}
        found.setdefault(owner(name), set()).update(sizes)
    return found


def _read(node: fx.Node, names: set[str]) -> list[str]:
    operands = [str(o.target) for o in node.all_input_nodes if o.op == "get_attr"]
    return [name for name in operands if name in names]


def _upstream(node: fx.Node, names: set[str], weights: set[str]) -> list[str]:
    """Parameters among these that are read before the node with no other weight between."""
    found: list[str] = []
    seen = {node}
    frontier = list(node.all_input_nodes)
    while frontier:
        reader = frontier.pop(0)
        if reader in seen:
            continue
        seen.add(reader)
        read = [str(reader.target)] if reader.op == "get_attr" else _read(reader, names)
        found.extend(name for name in read if name in names)
        # Behind another layer's weight lie other channels.
        if not read and not _read(reader, weights):
            frontier.extend(reader.all_input_nodes)
    return found
