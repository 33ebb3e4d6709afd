"""What of a graph takes time: its layers with their widths, and the elements of everything else."""

import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.coupling import STAYS, Coupling
from vibfx.gates import apply_gates
from vibfx.graph import is_tensor, shape_of
from vibfx.inputs import traced_batch
from vibfx.labels import Tagged, core, varying
from vibfx.latency.counts import Counts
from vibfx.latency.kernels import Kernel, kernel_of
from vibfx.metrics import Layer, layers_of

# They take no time: parts of a result, and what is folded before the export.
_FREE = (operator.getitem, apply_gates)


@dataclass(frozen=True)
class Layout:
    """What of a graph takes time.

    Attributes:
        kernels: Its layers.
        widths: For each layer the first two dimensions of its weight, as rows of ``counts``.
        free: For each layer whether these two may become smaller.
        sources: For each layer whether it reads, perhaps through what is no layer, each other.
        units: How many units there are.
        elements: For what is no layer, added up where it has the same dimensions: those, as rows of
            ``counts``, and the elements that go with one index of each, for one example.
        counts: The dimensions.
    """

    kernels: tuple[Kernel, ...]
    widths: npt.NDArray[np.int64]
    free: tuple[tuple[bool, bool], ...]
    sources: npt.NDArray[np.bool_]
    units: int
    elements: dict[tuple[int, ...], float]
    counts: Counts

    @classmethod
    def of(cls, module: fx.GraphModule, coupling: Coupling) -> "Layout":
        """Look at a graph.

        Args:
            module: A graph, gated or not.
            coupling: What ``analyze`` found in it.

        Raises:
            GraphError: The analysis is of another graph.
        """
        layers = list(layers_of(module))
        counts = Counts(coupling.units)
        dims = [_dims(layer, coupling) for _, layer in layers]
        return cls(
            kernels=tuple(kernel_of(node, layer) for node, layer in layers),
            widths=np.array([[counts.row(u) for u in pair] for pair in dims]).reshape(-1, 2),
            free=tuple((bool((a != STAYS).any()), bool((b != STAYS).any())) for a, b in dims),
            sources=_sources(module, [node for node, _ in layers]),
            units=coupling.units,
            elements=_elements(module, coupling, {node for node, _ in layers}, counts),
            counts=counts,
        )


def _dims(layer: Layer, coupling: Coupling) -> list[npt.NDArray[np.int64]]:
    """The units of the first two dimensions of a layer's weight."""
    slots = {slot.dim: slot for slot in coupling.space.of_parameter(layer.weight)}
    return [
        coupling.units_of(slots[dim]) if dim in slots else np.full(layer.shape[dim], STAYS)
        for dim in (0, 1)
    ]


def _sources(module: fx.GraphModule, layers: list[fx.Node]) -> npt.NDArray[np.bool_]:
    numbers: dict[fx.Node, list[int]] = {}
    for number, node in enumerate(layers):
        numbers.setdefault(node, []).append(number)
    read = np.zeros((len(layers), len(layers)), dtype=bool)
    made: dict[fx.Node, frozenset[int]] = {}
    for node in module.graph.nodes:
        found = frozenset[int]().union(*(made[source] for source in node.all_input_nodes))
        for number in numbers.get(node, ()):
            read[number, list(found)] = True
        made[node] = frozenset(numbers[node]) if node in numbers else found
    return read


def _elements(
    module: fx.GraphModule, coupling: Coupling, layers: set[fx.Node], counts: Counts
) -> dict[tuple[int, ...], float]:
    batch, labels = traced_batch(module), coupling.propagation.moved_to(module)
    found: dict[tuple[int, ...], float] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or not is_tensor(node):
            continue
        if node in layers or node.target in _FREE:
            continue
        dims = removable(labels.tagged(node), coupling)
        rows = tuple(sorted(counts.row(units) for units in dims))
        size = float(np.prod(shape_of(node))) / batch
        found[rows] = found.get(rows, 0.0) + size / float(np.prod([u.size for u in dims]))
    return found


def removable(tensors: list[Tagged], coupling: Coupling) -> list[npt.NDArray[np.int64]]:
    """The units along each dimension, or dimensions, of a tensor that may become smaller.

    Args:
        tensors: The labels of a node.
        coupling: The groups.
    """
    dims: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
    for factor in (factor for tensor in tensors for factor in tensor.factors):
        units = coupling.unit_of[core(factor)[0].numpy().ravel()]
        if (units != STAYS).any():
            dims.setdefault(varying(factor), units)
    return list(dims.values())
