"""What a network costs, and what a unit of it costs: parameters, multiply-accumulates, features.

FLOPs here are the multiply-accumulates of convolutions, linears and recurrent layers for one
example, as in the paper's tables. Each element of such a layer's weight is used a fixed number of
times an example (once for each output position or step), which removing channels does not change;
so the FLOPs of a pruned network are a weighted count of the weights that are left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from vibfx.gates import gates_of
from vibfx.graph import shape_of, tensor_at
from vibfx.inputs import traced_batch
from vibfx.propagation import SELECTIONS
from vibfx.rules import OpRule, rule_for
from vibfx.rules.convolution import TRANSPOSED
from vibfx.rules.recurrent import RECURRENT


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
            linears, poolings and flattenings, the model's output not counted. Where features of
            an input are selected, those count, as in the paper's LeNet-300-100.
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
    layers = tuple(layer for _, layer in layers_of(module))
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


def layers_of(module: fx.GraphModule) -> Iterator[tuple[fx.Node, Layer]]:
    """The layers of a graph in its order, each with the node that computes it."""
    for node in module.graph.nodes:
        if node.target in RECURRENT:
            yield from ((node, matrix) for matrix in _matrices(module, node))
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
        yield node, Layer(name, shape, positions)


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
    tables = frozenset(module.meta.get(SELECTIONS, ()))
    maps = [
        read
        for node in module.graph.nodes
        if node not in results and (found := rule_for(module, node)) and found.feature_map
        for read in _read_of(node, tables)
    ]
    return float(sum(np.prod(shape_of(node)) for node in maps)) / traced_batch(module)


def _read_of(node: fx.Node, tables: frozenset[str]) -> list[fx.Node]:
    """A feature map; where all that is read of it are selected features of an input, those."""
    selections = [
        user
        for user in node.users
        if user.target is torch.ops.aten.index_select.default
        and str(user.all_input_nodes[-1].target) in tables
    ]
    return selections if selections and len(selections) == len(node.users) else [node]
