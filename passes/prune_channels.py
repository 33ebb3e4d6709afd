"""Physically remove channels: slice parameters, rewrite literal sizes, check every shape."""

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from vibfx.architecture import check_same
from vibfx.components import Components, find_components
from vibfx.coupling import Coupling, Frozen, analyze
from vibfx.emptied import drop_empty, is_empty
from vibfx.errors import PlanError
from vibfx.gates import apply_gates, gates_of
from vibfx.graph import (
    concrete,
    drop_dead_nodes,
    drop_unread,
    empty_like,
    is_tensor,
    set_tensor,
    shape_of,
    size_key,
    tensor_at,
    where,
)
from vibfx.labels import LabelSpace, Slot, Survivors, Tagged
from vibfx.passes.base import Pass
from vibfx.planning import PruningPlan
from vibfx.rules import Cut, KeptIndices, rule_for
from vibfx.shape_check import check_shapes

Kept = dict[fx.Node, list[KeptIndices]]


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Cut a graph, gated or not, by a plan.

    Parameters, buffers and gates are sliced; ``groups`` of convolutions and every literal size
    follow from the shapes that the labels predict; at the end every node's real shape is compared
    with its predicted one. Nodes keep their names, and note in ``meta["kept"]`` which indices of
    which dimension they kept.

    Args:
        plan: Which indices stay.
        found: What ``vibfx.analyze`` found out about this graph, where that is at hand; made here
            otherwise.
    """

    plan: PruningPlan = field(repr=False)
    found: Coupling | None = field(default=None, repr=False)
    name: ClassVar[str] = "prune-channels"

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Slice and adapt."""
        check_same(module, self.plan.shapes, self.plan.architecture)
        if not self.plan.parameters:
            return False
        found = self._components(module)
        removed = _removed_labels(module, found, self.plan)
        survivors = Survivors(removed)
        kept = _predict(module, found, survivors)
        shapes = {node: shape_of(node) for node in module.graph.nodes if is_tensor(node)}
        cut = Cut(module, kept, shapes)
        for node in module.graph.find_nodes(op="call_function", target=apply_gates):
            if len(node.args) > 2 and node.args[2] is not None:
                _reindex(module, node, kept)
        for name, slots in groupby(found.space.slots, key=lambda slot: slot.parameter):
            _slice(module, name, list(slots), survivors)
        drop_empty(cut)
        sizes: dict[Any, Tensor] = {}
        for node in list(module.graph.nodes):
            _shrink(node, cut, sizes)
        drop_dead_nodes(module)
        drop_unread(module)
        check_shapes(module)
        for node, parts in kept.items():
            if node.op != "get_attr" and len(parts) == 1 and not is_empty(node, cut):
                node.meta["kept"] = {d: k for d, k in enumerate(parts[0]) if k is not None}
        return True

    def _components(self, module: fx.GraphModule) -> Components:
        if self.found is None:
            return find_components(module)
        return Components(self.found.propagation.moved_to(module), self.found.component)


def _removed_labels(module: fx.GraphModule, found: Components, plan: PruningPlan) -> Tensor:
    """All labels that go, the gates' included.

    Raises:
        PlanError: The plan names what is not there, or cuts through a unit.
    """
    slots = {(slot.parameter, slot.dim): slot for slot in found.space.slots}
    component, stays = found.component, found.stays
    asked = np.zeros(component.size, dtype=bool)
    for name, dims in plan.parameters.items():
        for dim, kept in dims.items():
            slot = slots.get((name, dim))
            slot = _checked(module, slot, name, dim, plan.shapes.get(name))
            asked[slot.start : slot.start + slot.size] = ~_mask(kept, slot)
    gone = np.zeros(component.max() + 1, dtype=bool)
    gone[component[asked]] = True
    removed = gone[component]
    for slot in _slots_with(asked & stays, found.space):
        raise PlanError(
            f"the plan removes what has to stay: {_reason(module, slot)}", where=slot.parameter
        )
    gates = {f"{name}.{part}" for name in gates_of(module) for part in ("mu", "log_sigma2")}
    for slot in _slots_with(asked != removed, found.space):
        if slot.parameter not in gates:
            raise PlanError(
                f"the plan cuts through a unit at dimension {slot.dim}",
                where=slot.parameter,
                hint="Indices that are coupled go together; make the plan with vibfx.plan.",
            )
    return torch.from_numpy(removed)


def _slots_with(chosen: npt.NDArray[np.bool_], space: LabelSpace) -> list[Slot]:
    """The slots that have a chosen label."""
    labels = np.flatnonzero(chosen[: len(space)])
    return [space.slots[position] for position in np.unique(space.slot_of_label()[labels])]


def _reason(module: fx.GraphModule, slot: Slot) -> Frozen:
    frozen = analyze(module).frozen
    return next(f for f in frozen if (f.parameter, f.dim) == (slot.parameter, slot.dim))


def _checked(
    module: fx.GraphModule, slot: Slot | None, name: str, dim: int, shape: tuple[int, ...] | None
) -> Slot:
    if slot is None:
        raise PlanError(
            f"the plan cuts dimension {dim} of a parameter that this graph does not have",
            where=name,
            hint="The plan is for another network, or for one with its inputs selected.",
        )
    own = tuple(tensor_at(module, name).shape)
    if shape is not None and shape != own:
        raise PlanError(f"the plan is for shape {shape}, the parameter has {own}", where=name)
    return slot


def _mask(kept: tuple[int, ...], slot: Slot) -> npt.NDArray[np.bool_]:
    """The kept indices of a slot as booleans."""
    stays = np.zeros(slot.size, dtype=bool)
    indices = np.asarray(kept, dtype=np.int64)
    inside = (indices >= 0) & (indices < slot.size)
    stays[indices[inside]] = True
    if stays.sum() != len(kept):
        raise PlanError(
            f"the kept indices of dimension {slot.dim} are no subset of it", where=slot.parameter
        )
    return stays


def _predict(module: fx.GraphModule, found: Components, survivors: Survivors) -> Kept:
    """Which indices of every node's dimensions stay."""
    kept: Kept = {}
    for node in module.graph.nodes:
        tagged: list[Tagged] = found.propagation.tagged(node)
        if node.op == "output" or not tagged:
            continue
        try:
            kept[node] = [survivors.of(part) for part in tagged]
        except ValueError as error:
            raise PlanError(str(error), where=where(node)) from error
    return kept


def _slice(module: fx.GraphModule, name: str, slots: list[Slot], survivors: Survivors) -> None:
    """Cut all dimensions of a parameter."""
    cuts = [(slot.dim, kept) for slot in slots if (kept := survivors.of_slot(slot)) is not None]
    if cuts:
        value = tensor_at(module, name).detach()
        for dim, kept in cuts:
            value = value.index_select(dim, kept.to(value.device))
        set_tensor(module, name, value)


def _reindex(module: fx.GraphModule, node: fx.Node, kept: Kept) -> None:
    """Renumber the table that says which gate value governs which element of a site."""
    x, values, stored = node.args[:3]
    alive = []
    for value in values:  # type: ignore[union-attr]
        keep = kept[value][0][1]  # type: ignore[index]
        alive.append(torch.ones(shape_of(value)[1], dtype=torch.bool))  # type: ignore[arg-type]
        if keep is not None:
            alive[-1] = torch.zeros_like(alive[-1]).index_fill_(0, keep, True)
    row = torch.cat([*alive, torch.ones(1, dtype=torch.bool)])
    position = row.cumsum(0) - 1
    index = tensor_at(module, str(stored.target))  # type: ignore[union-attr]
    per_example = len(node.args) < 4 or bool(node.args[3])
    for dim, keep in enumerate(kept[x][0][1:] if per_example else kept[x][0]):  # type: ignore[index]
        if keep is not None and index.size(dim) > 1:
            index = index.index_select(dim, keep.to(index.device))
    set_tensor(module, str(stored.target), position.to(index.device)[index])  # type: ignore[union-attr]


def _shrink(node: fx.Node, cut: Cut, sizes: dict[Any, Tensor]) -> None:
    """Note a node's new shape, and adapt the node to the new shapes around it."""
    value = node.meta.get("val")
    if node in cut.kept and isinstance(value, Tensor):
        node.meta["val"] = _smaller(value, cut.kept[node][0], sizes)
    elif node in cut.kept and isinstance(value, (list, tuple)):
        parts = zip(value, cut.kept[node], strict=True)
        node.meta["val"] = type(value)(_smaller(part, kept, sizes) for part, kept in parts)
    found = rule_for(cut.module, node)
    if found and found.resize and node in cut.kept:
        found.resize(node, cut)


def _smaller(value: Tensor, kept: KeptIndices, made: dict[Any, Tensor]) -> Tensor:
    """A tensor of the shape that is left; a symbolic size (batch and heads, say) in proportion.

    Tensors of one shape are made once: it takes longer than anything else here.
    """
    if all(keep is None for keep in kept):
        return value
    sizes = tuple(
        size
        if keep is None
        else keep.numel()
        if isinstance(size, int)
        else size * keep.numel() // concrete(size)
        for size, keep in zip(value.shape, kept, strict=True)
    )
    key = size_key(sizes), value.dtype
    if key not in made:
        made[key] = empty_like(value, sizes)
    return made[key]
