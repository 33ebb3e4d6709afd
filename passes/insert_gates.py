"""Put a gate behind every block whose channels can be removed."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from vibfx.components import NORMS
from vibfx.coupling import Coupling, Group
from vibfx.errors import GraphError, NothingRemovableError
from vibfx.gates import VIBGate, apply_gates, gates_of
from vibfx.graph import add_buffer, tensor_names
from vibfx.labels import core, varying
from vibfx.passes.base import Pass
from vibfx.sites import Site


@dataclass(frozen=True)
class InsertGates(Pass):
    """Insert one gate vector a group, applied at all of the group's sites.

    A gate's values are drawn once a batch size: sites that see the same batch share them, so that
    a residual stream is gated as one.

    Args:
        coupling: What ``analyze`` found in this graph.
        threshold: A unit is shut where ``log(mu^2 / sigma^2)`` is at or below it.
    """

    coupling: Coupling = field(repr=False)
    threshold: float = 0.0
    name: ClassVar[str] = "insert-gates"

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Add the gates' modules, then one multiplication a site."""
        if gates_of(module):
            raise GraphError("the graph has gates already", hint="Fold them with FoldGates first.")
        if not self.coupling.groups:
            raise nothing_removable(self.coupling)
        _check_is_of(self.coupling, module)
        holder = next(n for n in ("gates", "vib_gates") if not hasattr(module, n))
        exact = self.coupling.propagation.facts.exact_norms
        module.meta[NORMS] = "exact" if exact else "freeze"
        names = _module_names(self.coupling.groups)
        gates = {n: VIBGate(g.size, threshold=self.threshold) for n, g in names.items()}
        held = nn.ModuleDict(gates).to(_device(module)).train(module.training)
        module.add_submodule(holder, held)
        paths = {group.start: f"{holder}.{name}" for name, group in names.items()}
        nodes = {node.name: node for node in module.graph.nodes}
        drawn: dict[tuple[str, str], fx.Node] = {}
        for site in self.coupling.sites:
            _gate(module, nodes, site, self.coupling, paths, drawn)
        return True


def nothing_removable(coupling: Coupling) -> NothingRemovableError:
    """The error for a network of which nothing can be removed, with the commonest reasons."""
    counts: dict[str, int] = {}
    for frozen in coupling.frozen:
        counts[frozen.reason] = counts.get(frozen.reason, 0) + frozen.count
    reasons = sorted(counts, key=counts.__getitem__, reverse=True)[:3]
    because = "; ".join(f"{counts[reason]} indices: {reason}" for reason in reasons)
    return NothingRemovableError(
        "nothing can be removed from this network"
        + (f" ({because})" if because else ": it has no layer whose channels another one reads"),
        hint="A network needs at least one hidden layer between its input and its output.",
    )


def _check_is_of(coupling: Coupling, module: fx.GraphModule) -> None:
    """Refuse a coupling that was found in another graph."""
    own = {name: tuple(tensor.shape) for name, tensor in tensor_names(module)}
    for slot in coupling.space.slots:
        if own.get(slot.parameter, ())[slot.dim : slot.dim + 1] != (slot.size,):
            raise GraphError(
                "the coupling is of another graph",
                where=slot.parameter,
                hint="Pass vibfx.analyze(graph) of the graph that is to be gated.",
            )


def _module_names(groups: tuple[Group, ...]) -> dict[str, Group]:
    names: dict[str, Group] = {}
    for group in groups:
        stem = "".join(c if c.isalnum() else "_" for c in group.name)
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = group
    return names


def _gate(
    module: fx.GraphModule,
    nodes: dict[str, fx.Node],
    site: Site,
    coupling: Coupling,
    paths: dict[int, str],
    drawn: dict[tuple[str, str], fx.Node],
) -> None:
    """Multiply the values of all gates concerned into one site, and send its readers there."""
    node = nodes[site.node]
    units = torch.from_numpy(coupling.unit_of)[core(site.labels)[0]]
    present = set(units.unique().tolist())
    groups = [
        g for g in coupling.groups if not present.isdisjoint(range(g.start, g.start + g.size))
    ]
    readers = list(node.users)
    graph = module.graph
    with graph.inserting_before(node.next):
        values = [
            _draw(graph, node, paths[g.start], g.size, site.per_example, drawn) for g in groups
        ]
        args: tuple[Any, ...] = (node, values)
        index = _index(units, groups, site)
        if index is not None:
            stored = graph.get_attr(add_buffer(module, "gate_index", index.to(_device(module))))
            args = (*args, stored) if site.per_example else (*args, stored, False)
        gated = graph.call_function(apply_gates, args)
    gated.meta = dict(node.meta)
    for reader in readers:
        reader.replace_input_with(node, gated)
    nodes[site.node] = gated


def _draw(
    graph: fx.Graph,
    node: fx.Node,
    path: str,
    units: int,
    per_example: bool,
    drawn: dict[tuple[str, str], fx.Node],
) -> fx.Node:
    """The gate's values for this batch size; drawn where they are first needed."""
    key = (path, str(node.meta["val"].shape[0]) if per_example else "")
    if key not in drawn:
        drawn[key] = graph.call_module(path, (node,) if per_example else (node, False))
        value = node.meta["val"]
        rows = value.shape[0] if per_example else 1
        drawn[key].meta = {**node.meta, "val": value.new_empty((rows, units))}
    return drawn[key]


def _index(units: Tensor, groups: list[Group], site: Site) -> Tensor | None:
    """Which gate value governs each element; None where value j simply governs channel j."""
    entry: dict[int, int] = {}
    for group in groups:
        for unit in range(group.start, group.start + group.size):
            entry[unit] = len(entry)
    index = units.clone().apply_(lambda unit: entry.get(unit, len(entry)))
    if not site.per_example:
        return index
    plain = varying(site.labels) == (1,) and len(groups) == 1
    if plain and torch.equal(index.flatten(), torch.arange(groups[0].size)):
        return None
    return index[0]


def _device(module: fx.GraphModule) -> torch.device:
    return next(module.parameters()).device
