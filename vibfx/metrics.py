"""What a network costs, and what a unit of it costs: parameters, multiply-accumulates, features.

FLOPs here are the multiply-accumulates of convolutions, linears and recurrent layers for one
example, as in the paper's tables. Each element of such a layer's weight is used a fixed number of
times an example (once for each output position or step), which removing channels does not change;
so the FLOPs of a pruned network are a weighted count of the weights that are left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.coupling import STAYS, Coupling
from vibfx.gates import gates_of
from vibfx.graph import shape_of, tensor_at
from vibfx.inputs import traced_batch
from vibfx.rules import OpRule, rule_for
from vibfx.rules.convolution import TRANSPOSED
from vibfx.rules.recurrent import RECURRENT

Cost = Literal["flops", "params"]
COSTS: tuple[Cost, ...] = ("flops", "params")


@dataclass(frozen=True)
class Layer:
    """One convolution or linear, or one of the matrices of a recurrent layer.

    Attributes:
        weight: The name of its weight.
        shape: The weight's shape; the first dimension is the layer's width.
        uses: How often each weight is used for one example: the number of output positions.
    """

    weight: str
    shape: tuple[int, ...]
    uses: float

    @property
    def name(self) -> str:
        """The layer's module path."""
        return self.weight.removesuffix(".weight")

    @property
    def weights(self) -> int:
        """How many weights it has, the bias not counted."""
        return int(np.prod(self.shape))

    @property
    def flops(self) -> float:
        """Multiply-accumulates for one example."""
        return self.weights * self.uses


@dataclass(frozen=True)
class Measures:
    """What a graph costs.

    Attributes:
        parameters: All parameters, gates not counted.
        weights: Weights of convolutions, linears and recurrent layers.
        flops: Their multiply-accumulates for one example.
        features: Elements of all hidden feature maps for one example: the results of convolutions,
            linears, poolings and flattenings, the model's output not counted.
        layers: What has those weights, in the order of the graph.
    """

    parameters: int
    weights: int
    flops: float
    features: float
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Shares:
    """The paper's metrics: what is left, each from 0 to 1.

    Attributes:
        r_w: Share of weights kept.
        r_n: Share of hidden feature-map elements kept.
        flops: Share of multiply-accumulates kept.
        params: Share of parameters kept.
    """

    r_w: float
    r_n: float
    flops: float
    params: float


def measure(module: fx.GraphModule) -> Measures:
    """Count what a graph costs."""
    layers = tuple(_layers(module))
    gates = tuple(f"{name}." for name in gates_of(module))
    parameters = sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if not (gates and name.startswith(gates))
    )
    return Measures(
        parameters=parameters,
        weights=sum({layer.weight: layer.weights for layer in layers}.values()),
        flops=sum(layer.flops for layer in layers),
        features=_features(module),
        layers=layers,
    )


def shares(before: Measures, after: Measures) -> Shares:
    """What is left of a network."""
    return Shares(
        r_w=after.weights / before.weights,
        r_n=after.features / before.features,
        flops=after.flops / before.flops,
        params=after.parameters / before.parameters,
    )


def _layers(module: fx.GraphModule) -> list[Layer]:
    found: list[Layer] = []
    for node in module.graph.nodes:
        if node.target in RECURRENT:
            found.extend(_matrices(module, node))
            continue
        op_rule = rule_for(module, node)
        weight = op_rule.weight_of(node) if op_rule else None
        if op_rule is None or op_rule.weight_at is None or weight is None:
            continue
        name = str(weight.target)
        shape = tuple(tensor_at(module, name).shape)
        # A transposed convolution uses each weight once for every position of its input.
        by_input = node.target in TRANSPOSED
        side, width = (node.args[0], shape[0]) if by_input else (node, shape[1 - _reads(op_rule)])
        positions = float(np.prod(shape_of(side))) / (traced_batch(module) * width)
        found.append(Layer(name, shape, positions))
    return found


def _matrices(module: fx.GraphModule, node: fx.Node) -> Iterator[Layer]:
    """The matrices of a recurrent layer, each of which is used once a step."""
    args: tuple[Any, ...] = node.args
    steps = shape_of(args[0])[:-1]
    uses = float(np.prod(steps)) / traced_batch(module)
    for parameter in args[2]:
        while parameter.op != "get_attr":  # a gate multiplies its columns
            parameter = parameter.all_input_nodes[0]
        shape = tuple(tensor_at(module, str(parameter.target)).shape)
        if len(shape) == 2:
            yield Layer(str(parameter.target), shape, uses)


def _reads(op_rule: OpRule) -> int:
    return op_rule.weight_at.reads if op_rule.weight_at else 1


def _features(module: fx.GraphModule) -> float:
    (output,) = module.graph.find_nodes(op="output")
    results = set(output.all_input_nodes)
    maps = [
        node
        for node in module.graph.nodes
        if node not in results and (found := rule_for(module, node)) and found.feature_map
    ]
    return float(sum(np.prod(shape_of(node)) for node in maps)) / traced_batch(module)


class CostModel:
    """The cost of a graph as a function of which units are left.

    Args:
        module: A graph.
        coupling: What ``analyze`` found in it.
    """

    def __init__(self, module: fx.GraphModule, coupling: Coupling) -> None:
        uses: dict[str, float] = {}
        for layer in _layers(module):
            uses[layer.weight] = uses.get(layer.weight, 0.0) + layer.uses
        gates = tuple(f"{name}." for name in gates_of(module))
        self._tensors = [
            _Tensor.of(tuple(parameter.shape), name, coupling, uses.get(name, 0.0))
            for name, parameter in module.named_parameters()
            if not (gates and name.startswith(gates))
        ]
        self._units = coupling.units

    def cost(self, kind: Cost, keep: npt.NDArray[np.bool_]) -> float:
        """The cost with these units left: multiply-accumulates or parameters."""
        alive = np.append(keep, True)
        return sum(t.weight(kind) * t.numel(alive) for t in self._tensors)

    def unit_costs(self, kind: Cost, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """What the cost falls by, to first order, for each unit if it alone goes now."""
        alive = np.append(keep, True)
        costs = np.zeros(self._units + 1)
        for tensor in self._tensors:
            if weight := tensor.weight(kind):
                tensor.add_unit_costs(costs, alive, weight)
        return costs[:-1]


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
        # What stays counts as the entry behind the last unit, which is always alive.
        dims = tuple(
            np.where(units == STAYS, coupling.units, units)
            for units in map(coupling.units_of, slots.values())
        )
        return cls(fixed, dims, uses)

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
