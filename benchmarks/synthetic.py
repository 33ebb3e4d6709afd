"""Graphs of any length, built node by node: capturing one of 20,000 nodes would take minutes."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from vibfx.graph import refresh_shapes

aten = torch.ops.aten

WIDTH = 8
SHAPES = ("chain", "residual", "cat")
LAYERS = ("conv", "linear")


class Builder:
    """Adds layers to a graph, each the four nodes that a traced one has."""

    def __init__(self, kind: str, side: int) -> None:
        self.kind = kind
        self.side = side
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.count = 0

    def input(self) -> fx.Node:
        """The input: two examples, the batch dynamic."""
        node = self.graph.placeholder("x")
        inner = (self.side, self.side) if self.kind == "conv" else ()
        node.meta["val"] = fake(torch.empty(2, WIDTH, *inner, device="meta"))
        return node

    def layer(self, x: fx.Node, outputs: int = WIDTH) -> fx.Node:
        """A convolution or a linear layer, and a relu."""
        name, self.count = f"layer_{self.count}", self.count + 1
        convolution = self.kind == "conv"
        made = nn.Conv2d(WIDTH, outputs, 3, 1, 1) if convolution else nn.Linear(WIDTH, outputs)
        self.root.add_module(name, made)
        weight = self.graph.get_attr(f"{name}.weight")
        bias = self.graph.get_attr(f"{name}.bias")
        rest = ([1, 1], [1, 1]) if convolution else ()
        target = aten.conv2d.default if convolution else aten.linear.default
        y = self.graph.call_function(target, (x, weight, bias, *rest))
        return self.graph.call_function(aten.relu.default, (y,))

    def chain(self, x: fx.Node) -> fx.Node:
        """One layer."""
        return self.layer(x)

    def residual(self, x: fx.Node) -> fx.Node:
        """Two layers and a shortcut past them."""
        return self.graph.call_function(aten.add.Tensor, (x, self.layer(self.layer(x))))

    def cat(self, x: fx.Node) -> fx.Node:
        """Two layers side by side."""
        half = WIDTH // 2
        parts = [self.layer(x, half), self.layer(x, half)]
        return self.graph.call_function(aten.cat.default, (parts, 1))


def fake(value: Tensor) -> Tensor:
    """A tensor without values whose first size is a symbol."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (value.dim() - 1)]
    context = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(torch.empty(value.shape), symbolic_context=context)


def network(shape: str, kind: str, nodes: int, side: int = 8) -> fx.GraphModule:
    """A graph of at least so many nodes, between an input layer and an output layer.

    Args:
        shape: One of ``SHAPES``.
        kind: One of ``LAYERS``.
        nodes: How many nodes, about.
        side: Of the feature maps, for convolutions.
    """
    builder = Builder(kind, side)
    block: Callable[[fx.Node], fx.Node] = getattr(builder, shape)
    x = builder.layer(builder.input())
    while len(builder.graph.nodes) < nodes - 5:
        x = block(x)
    builder.graph.output((builder.layer(x),))
    module = fx.GraphModule(builder.root, builder.graph).eval()
    refresh_shapes(module)
    return module
