"""What a network costs as a function of what is left of it, and what a unit of it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.coupling import STAYS, Coupling
from vibfx.gates import gates_of
from vibfx.graph import is_tensor, shape_of
from vibfx.inputs import traced_batch
from vibfx.labels import Tagged
from vibfx.latency import LatencyModel, latency_model
from vibfx.latency.layout import removable
from vibfx.metrics import layers_of

Cost = Literal["flops", "params", "latency"]
COSTS: tuple[Cost, ...] = ("flops", "params", "latency")

# Those that are counted; a latency has to be measured.
COUNTED: tuple[Cost, ...] = ("flops", "params")

# What an element that a layer computes weighs beside its multiply-accumulates, in such: it is
# written and read, however few it took. In networks with few of them an element, such as those of
# depthwise convolutions, that takes much of the time: with less they would keep the layers that
# take longest. In others more would take channels away and gain no time.
_RESULT, _RESULT_WHERE_FEW = 50.0, 200.0
_FEW = 100.0


class CostModel:
    """The cost of a graph as a function of which units are left.

    Args:
        module: A graph.
        coupling: What ``analyze`` found in it.
        latency: What makes the model of the latency, the first time that is asked for; by default
            the graph is measured on this machine.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        coupling: Coupling,
        *,
        latency: Callable[[], LatencyModel] | None = None,
    ) -> None:
        self._make_latency = latency or (lambda: latency_model(module, coupling))
        uses: dict[str, float] = {}
        for _, layer in layers_of(module):
            uses[layer.weight] = uses.get(layer.weight, 0.0) + layer.uses
        labels, batch = coupling.propagation.moved_to(module), traced_batch(module)
        self._results = [
            _Tensor.of_results(node, labels.tagged(node), coupling, 1.0 / batch)
            for node in dict.fromkeys(node for node, _ in layers_of(module))
            if is_tensor(node)
        ]
        gates = tuple(f"{name}." for name in gates_of(module))
        self._tensors = [
            _Tensor.of(tuple(parameter.shape), name, coupling, uses.get(name, 0.0))
            for name, parameter in module.named_parameters()
            if not (gates and name.startswith(gates))
        ]
        self._units = coupling.units
        every = np.ones(coupling.units, dtype=bool)
        has_few = self.cost("flops", every) < _FEW * self._elements(np.append(every, True))
        self._result = _RESULT_WHERE_FEW if has_few else _RESULT

    def cost(self, kind: Cost, keep: npt.NDArray[np.bool_]) -> float:
        """The cost with these units left: multiply-accumulates, parameters or milliseconds.

        Raises:
            ExportError: The latency of a graph that cannot be written as ONNX was asked for.
        """
        if kind == "latency":
            return self._latency.cost(keep)
        alive = np.append(keep, True)
        return sum(t.weight(kind) * t.numel(alive) for t in self._tensors)

    def unit_costs(self, kind: Cost, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """What the cost falls by, to first order, for each unit if it alone goes now.

        Raises:
            ExportError: The latency of a graph that cannot be written as ONNX was asked for.
        """
        if kind == "latency":
            return self._latency.unit_costs(keep)
        alive = np.append(keep, True)
        costs = np.zeros(self._units + 1)
        for tensor in self._tensors:
            if weight := tensor.weight(kind):
                tensor.add_unit_costs(costs, alive, weight)
        return costs[:-1]

    def flops_shares(self) -> npt.NDArray[np.float64]:
        """The share of all FLOPs of the whole network that each unit has, to first order."""
        every = np.ones(self._units, dtype=bool)
        full = self.cost("flops", every) or 1.0  # of a network without layers
        return self.unit_costs("flops", every) / full

    def unit_shares(self, kind: Cost, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """What falls to each unit of a price on a cost: its share of what the units cost together.

        Beside FLOPs the layers' results count, which a runtime has to move: so that with the FLOPs
        the time goes down.

        Raises:
            ExportError: The latency of a graph that cannot be written as ONNX was asked for.
        """
        shares: npt.NDArray[np.float64] = self.unit_costs(kind, keep)
        whole = self.cost(kind, keep)
        if kind == "flops":
            alive = np.append(keep, True)
            moved = np.zeros(self._units + 1)
            for results in self._results:
                results.add_unit_costs(moved, alive, self._result * results.uses)
            whole += self._result * self._elements(alive)
            shares = shares + moved[:-1]
        return shares / whole if whole else shares

    def _elements(self, alive: npt.NDArray[np.bool_]) -> float:
        """How many elements all layers compute for one example."""
        return sum(results.uses * results.numel(alive) for results in self._results)

    @cached_property
    def _latency(self) -> LatencyModel:
        return self._make_latency()


@dataclass(frozen=True)
class _Tensor:
    """A parameter's size as a product over its dimensions."""

    fixed: float
    dims: tuple[npt.NDArray[np.int64], ...]
    uses: float

    @classmethod
    def of(cls, shape: tuple[int, ...], name: str, coupling: Coupling, uses: float) -> "_Tensor":
        slots = {slot.dim: slot for slot in coupling.space.of_parameter(name)}
        fixed = float(np.prod([size for dim, size in enumerate(shape) if dim not in slots]))
        units = [coupling.units_of(slot) for slot in slots.values()]
        return cls(fixed, tuple(_entries(each, coupling) for each in units), uses)

    @classmethod
    def of_results(
        cls, node: fx.Node, labels: list[Tagged], coupling: Coupling, weight: float
    ) -> "_Tensor":
        """What a layer computes."""
        dims = tuple(_entries(each, coupling) for each in removable(labels, coupling))
        fixed = float(np.prod(shape_of(node))) / float(np.prod([each.size for each in dims]))
        return cls(fixed, dims, weight)

    def weight(self, kind: Cost) -> float:
        return self.uses if kind == "flops" else 1.0

    def numel(self, alive: npt.NDArray[np.bool_]) -> float:
        return self.fixed * float(np.prod([alive[units].sum() for units in self.dims]))

    def add_unit_costs(
        self, costs: npt.NDArray[np.float64], alive: npt.NDArray[np.bool_], weight: float
    ) -> None:
        counts = [max(float(alive[units].sum()), 1.0) for units in self.dims]
        for position, units in enumerate(self.dims):
            others = np.prod([c for at, c in enumerate(counts) if at != position])
            np.add.at(costs, units, weight * self.fixed * float(others))


def _entries(units: npt.NDArray[np.int64], coupling: Coupling) -> npt.NDArray[np.int64]:
    """The same, with what stays as the entry behind the last unit, which is always alive."""
    return np.where(units == STAYS, coupling.units, units)
