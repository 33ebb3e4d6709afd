"""Take shut units out of a graph while it is trained, and put it together again afterwards.

What was found out about the whole graph holds for all that is left of it, so it is analysed once:
each time the whole graph, of which only the shapes are kept, is cut anew by all units that have
gone so far, and gets the trained tensors of the last cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from vibfx.components import Units
from vibfx.copying import WHOLE, each_tensor, share_graph_module
from vibfx.coupling import Coupling, analyze
from vibfx.errors import PlanError
from vibfx.gates import gates_of
from vibfx.graph import owner_of, tensor_at
from vibfx.metrics import Measures, measure
from vibfx.passes.prune_channels import PruneChannels
from vibfx.passes.set_mode import SetMode
from vibfx.planning import Keep, best_of_entries, plan_units
from vibfx.training.optimizers import Successor, replace_parameters, take

# A unit whose log(alpha) is so far below its gate's threshold does not open again.
MARGIN = 3.0

# log(alpha) of a unit whose mean is zero.
_LEAST = -1e3


@dataclass(frozen=True)
class Whole:
    """A gated graph as it was before anything went, and what is left of it.

    Attributes:
        module: The graph; its parameters have shapes only.
        coupling: Its analysis.
        keep: For every unit whether it is still there.
    """

    module: fx.GraphModule
    coupling: Coupling
    keep: Keep

    def __deepcopy__(self, memo: dict[int, Any]) -> "Whole":
        """Itself: it never changes, and a copy of a graph is left of the same one."""
        return self

    def __reduce__(self) -> Any:
        """Refuse: a file of the graph would lack what unshrink needs."""
        raise PlanError(
            "a graph that is shrunk for training cannot be pickled",
            hint="Call vibfx.training.unshrink first, or save its state_dict().",
        )

    def gate_units(self, module: fx.GraphModule) -> dict[str, Units]:
        """For every gate of what is left, the unit of each of its entries."""
        units = self.coupling.gate_units(self.module)
        return {name: units[name][self._stays(units[name])] for name in gates_of(module)}

    def above(self, module: fx.GraphModule) -> npt.NDArray[np.float64]:
        """For every unit by how much its ``log(alpha)`` is above its gate's threshold.

        Minus infinity where it has gone; never for one that is there, which may open again.
        """
        above = {
            name: (gate.log_alpha() - gate.threshold).clamp_min(_LEAST)
            for name, gate in gates_of(module).items()
        }
        return best_of_entries(above, self.gate_units(module), self.coupling.units)

    def indices(self) -> dict[tuple[str, int], Tensor]:
        """Of every labelled dimension of every tensor the indices that are left."""
        return {
            (slot.parameter, slot.dim): torch.from_numpy(
                np.flatnonzero(self._stays(self.coupling.units_of(slot)))
            )
            for slot in self.coupling.space.slots
        }

    def _stays(self, units: Units) -> Keep:
        return np.append(self.keep, True)[units]  # STAYS is the last one


def whole_of(model: fx.GraphModule) -> Whole:
    """The gated graph that a graph is what is left of: itself, before the first cut.

    Raises:
        PlanError: It has no gates.
    """
    known: Whole | None = model.meta.get(WHOLE)
    if known is None:
        if not gates_of(model):
            raise PlanError("the graph has no gates", hint="Insert them with InsertGates first.")
        coupling = analyze(model)
        known = Whole(_without_content(model), coupling, np.ones(coupling.units, dtype=bool))
        model.meta[WHOLE] = known
    return known


def alive(model: fx.GraphModule, *, margin: float = MARGIN) -> Keep:
    """For every unit of the whole graph whether it is there and may still open.

    The best unit of a group is alive in any case.

    Args:
        model: A gated graph.
        margin: By how much ``log(alpha)`` lies below the threshold where a unit is given up.
    """
    above = whole_of(model).above(model)
    return some_of_each(model, above >= -margin)


def some_of_each(model: fx.GraphModule, keep: Keep) -> Keep:
    """Of these units those that are still there, and the best of each group that has none.

    A graph in training keeps its gates: whole blocks go when training is over.

    Args:
        model: A gated graph.
        keep: For every unit of the whole graph whether it is to stay.
    """
    whole = whole_of(model)
    above = whole.above(model)
    keep = whole.keep & keep
    for group in whole.coupling.groups:
        if not keep[group.units].any():
            left = group.start + np.flatnonzero(whole.keep[group.units])
            keep[left[np.argmax(above[left])]] = True
    return keep


def shrink(
    model: fx.GraphModule,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    copies: Sequence[fx.GraphModule] = (),
    margin: float = MARGIN,
) -> bool:
    """Remove the units that are shut for good from a graph in training, in place.

    The next step gives the loss and the gradients that the same units, shut, would have given.
    Parameters become new, smaller ones; the optimizer goes on with them and with what it knows of
    them, and a gradient at hand is cut as well. Call ``unshrink`` when training is over.

    Args:
        model: A gated graph, on any device, in either mode.
        optimizer: What trains it: any for whose parameters the state is numbers or tensors of the
            parameters' shapes.
        copies: Copies of the model that follow it, such as an average of its weights.
        margin: A unit goes where its ``log(alpha)`` is below the gate's threshold by more.

    Returns:
        Whether anything went.

    Raises:
        PlanError: The graph has no gates, or the optimizer's state cannot be cut; nothing is
            changed then.
    """
    return cut(model, alive(model, margin=margin), optimizer, copies=copies)


def cut(
    model: fx.GraphModule,
    keep: Keep,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    copies: Sequence[fx.GraphModule] = (),
) -> bool:
    """Leave of a gated graph what is told, in place; see ``shrink``.

    Args:
        model: A gated graph.
        keep: For every unit of the whole graph whether it stays.
        optimizer: What trains it.
        copies: Copies of the model that follow it.

    Returns:
        Whether anything went.
    """
    whole = whole_of(model)
    if np.array_equal(keep, whole.keep):
        return False
    smaller = replace(whole, keep=keep)
    plan = plan_units(whole.module, whole.coupling, keep)
    cuts = _cuts(whole, smaller)
    made = []
    for old in (model, *copies):
        new = PruneChannels(plan, whole.coupling)(whole.module).graph_module
        made.append((old, new, _fill(new, old, whole, cuts)))
    if optimizer is not None:
        replace_parameters(optimizer, made[0][2])
    for old, new, _ in made:
        _become(old, new)
        old.meta[WHOLE] = smaller
    return True


def measured(model: fx.GraphModule, keep: Keep) -> Measures:
    """What is left of a network with these units alone, whole blocks having gone without theirs.

    Args:
        model: A gated graph.
        keep: For every unit of the whole graph whether it stays.
    """
    whole = whole_of(model)
    plan = plan_units(whole.module, whole.coupling, keep)
    module = share_graph_module(whole.module)
    SetMode(training=False)(module)  # what is left of an empty block has no batch to take means of
    return measure(PruneChannels(plan, whole.coupling)(module).graph_module)


def unshrink(model: fx.GraphModule) -> None:
    """Give a graph that was shrunk its full shape back, in place.

    Units that went are there again, shut, with zero weights; so it computes the same, and
    ``vibfx.plan`` says of the original network what has to go.

    Args:
        model: A gated graph; one that was never shrunk stays as it is.
    """
    whole: Whole | None = model.meta.pop(WHOLE, None)
    if whole is None or whole.keep.all():
        return
    kept: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), indices in whole.indices().items():
        kept.setdefault(name, []).append((dim, indices))
    full = share_graph_module(whole.module)
    for name, noted in list(each_tensor(full)):
        if noted.is_floating_point():
            old = tensor_at(model, name)
            value = old.detach()
            for dim, indices in kept.get(name, []):
                sizes = [*value.shape[:dim], noted.shape[dim], *value.shape[dim + 1 :]]
                value = value.new_zeros(sizes).index_copy(dim, indices.to(value.device), value)
            _put(full, name, _like(old, value))
    _become(model, full)


def _cuts(before: Whole, after: Whole) -> dict[str, list[tuple[int, Tensor]]]:
    """For every tensor and dimension that becomes smaller, which of its indices are left."""
    had, has = before.indices(), after.indices()
    cuts: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), left in has.items():
        if left.numel() < had[name, dim].numel():
            cuts.setdefault(name, []).append((dim, torch.searchsorted(had[name, dim], left)))
    return cuts


def _fill(
    new: fx.GraphModule,
    old: fx.GraphModule,
    whole: Whole,
    cuts: dict[str, list[tuple[int, Tensor]]],
) -> dict[nn.Parameter, Successor]:
    """Give a graph of which only the shapes are known what is left of the trained tensors.

    Returns:
        For every parameter that becomes smaller what takes its place.
    """
    known = {name for name, _ in each_tensor(whole.module)}
    successors: dict[nn.Parameter, Successor] = {}
    for name, noted in list(each_tensor(new)):
        if name not in known or not noted.is_floating_point():
            continue  # a table of indices, made for this cut
        value, own = tensor_at(old, name), cuts.get(name, [])
        if own and isinstance(value, nn.Parameter):
            if value not in successors:  # else it has two names
                successors[value] = Successor(value, own)
            value = successors[value].parameter
        elif own:
            value = take(value, own)
        _put(new, name, value)
    return successors


def _like(old: Tensor, value: Tensor) -> Tensor:
    """A parameter where the old one is, trained where that is trained."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(value, requires_grad=old.requires_grad)
    return value


def _put(module: fx.GraphModule, name: str, value: Tensor) -> None:
    owner, attribute = owner_of(module, name)
    table = owner._parameters if isinstance(value, nn.Parameter) else owner._buffers
    table[attribute] = value  # type: ignore[assignment]


def _become(model: fx.GraphModule, other: fx.GraphModule) -> None:
    """Put another graph's content in a graph's place; its mode, device and gates stay."""
    gates = gates_of(model)
    for name, gate in gates_of(other).items():
        owner, attribute = owner_of(other, name)
        gates[name]._parameters.update(gate._parameters)
        owner._modules[attribute] = gates[name]
    SetMode(training=model.training)(other)
    other.to(next(iter(gates.values())).mu.device)
    for mine, others in (
        (model._modules, other._modules),
        (model._parameters, other._parameters),
        (model._buffers, other._buffers),
    ):
        mine.clear()
        mine.update(others)  # type: ignore[arg-type]
    model._non_persistent_buffers_set = set(other._non_persistent_buffers_set)
    model.graph = other.graph


def _without_content(model: fx.GraphModule) -> fx.GraphModule:
    """A copy whose floating-point tensors have shapes only; ties between them stay."""
    module = share_graph_module(model)
    empty: dict[int, Tensor] = {}
    for name, tensor in list(each_tensor(module)):
        if tensor.is_floating_point():
            if id(tensor) not in empty:
                empty[id(tensor)] = _like(tensor, torch.empty_like(tensor, device="meta"))
            _put(module, name, empty[id(tensor)])
    return module
