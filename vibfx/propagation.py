"""Labels through a whole graph: every node's factors, and all facts that its op's rule states."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from vibfx.errors import GraphError
from vibfx.gates import gates_of
from vibfx.graph import concrete, is_tensor, shape_of, tensor_at, tensor_names
from vibfx.labels import LabelSpace, Tagged
from vibfx.rules import rule_for
from vibfx.rules.convolution import CONVOLUTIONS
from vibfx.rules.facts import Facts

# Where a graph notes the names of the tables by which it selects features of its inputs.
SELECTIONS = "vibfx_selections"


@dataclass(frozen=True)
class Propagation:
    """A graph with labels on everything.

    Attributes:
        space: All labels.
        values: For each node its ``Tagged``, a list of them, or a plain value (a size).
        facts: What lives and dies together, what stays, and where removed elements must be zero.
    """

    space: LabelSpace
    values: dict[fx.Node, Any]
    facts: Facts

    def tagged(self, node: fx.Node) -> list[Tagged]:
        """The node's tensors."""
        value = self.values.get(node)
        return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Tagged)]

    def moved_to(self, module: fx.GraphModule) -> "Propagation":
        """The labels of the nodes of a copy of the graph.

        Raises:
            GraphError: The graph is another one.
        """
        nodes = [node for node in module.graph.nodes if node.op != "output"]
        if list(map(_identity, nodes)) != list(map(_identity, self.values)):
            raise GraphError(
                "the analysis is of another graph", hint="Pass the graph that was analysed."
            )
        return replace(self, values=dict(zip(nodes, self.values.values(), strict=True)))


def _identity(node: fx.Node) -> tuple[Any, ...]:
    return node.name, node.target, [source.name for source in node.all_input_nodes], shape_of(node)


def propagate(module: fx.GraphModule, *, exact_norms: bool = True) -> Propagation:
    """Run a graph on labels.

    Every op with a labelled input is handled by its rule; an op without one freezes what goes in
    and labels nothing that comes out.

    Args:
        module: A traced graph, gated or not.
        exact_norms: Whether channels under a norm or a mean that runs across them may go.

    Returns:
        The labels of every node and the facts the rules stated.
    """
    space = LabelSpace.over(_labelled(module))
    facts = Facts(len(space), exact_norms)
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        facts.node = node
        if node.op == "get_attr":
            values[node] = _attribute(module, str(node.target), space, node)
        elif node.op == "output":
            facts.freeze(_factors_in(node.args, values), "the model's output")
        else:
            values[node] = _run(module, node, values, facts, space)
    return Propagation(space, values, facts)


def _labelled(module: fx.GraphModule) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    # What a kernel slides over is no dimension that could shrink.
    kernels = {
        str(node.args[1].target)
        for node in module.graph.nodes
        if node.op == "call_function" and node.target in CONVOLUTIONS
        if isinstance(node.args[1], fx.Node)
    }
    gates = {f"{name}.{part}" for name in gates_of(module) for part in ("mu", "log_sigma2")}
    selections = module.meta.get(SELECTIONS, ())
    for name, tensor in tensor_names(module):
        if name in gates:
            yield name, tuple(tensor.shape), (0,)  # also where there is one unit only
        elif tensor.is_floating_point() or name in selections:
            dims = range(min(tensor.dim(), 2) if name in kernels else tensor.dim())
            shape = tuple(tensor.shape)
            yield name, shape, tuple(dim for dim in dims if shape[dim] > 1)


def _attribute(
    module: fx.GraphModule, name: str, space: LabelSpace, node: fx.Node | None
) -> Tagged:
    tensor = tensor_at(module, name)
    shape = tuple(tensor.shape)
    value = None if tensor.is_floating_point() else tensor
    return Tagged(shape, space.factors_of(name, shape), node, value)


def _run(
    module: fx.GraphModule,
    node: fx.Node,
    values: dict[fx.Node, Any],
    facts: Facts,
    space: LabelSpace,
) -> Any:
    args: Any = fx.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_module":
        owner = module.get_submodule(str(node.target))
        names = [f"{node.target}.{name}" for name, _ in owner.named_parameters(recurse=False)]
        args = (*(_attribute(module, name, space, None) for name in names), *args)
    elif node.target is operator.getitem and isinstance(args[0], list):
        return replace(args[0][args[1]], source=node)
    found = rule_for(module, node)
    creates = node.op == "call_module" or (found and found.creates)
    labelled = creates or _factors_in((node.args, node.kwargs), values)
    if not _has_tensors(node) or not labelled:
        return _unlabelled(node)
    if found is None:
        reason = f"goes into {node.target}, an op without a rule"
        facts.freeze(_factors_in((node.args, node.kwargs), values), reason)
        return _unlabelled(node)
    return _tagged(node, found.labels(facts, *args, **kwargs))


def _has_tensors(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _unlabelled(node: fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        return [Tagged(tuple(map(concrete, part.shape)), (), node) for part in value]
    return Tagged(shape_of(node), (), node) if is_tensor(node) else concrete(value)


def _tagged(node: fx.Node, factors: Any) -> Any:
    if isinstance(factors, list):
        shapes = [tuple(map(concrete, part.shape)) for part in node.meta["val"]]
        return [Tagged(s, f, node) for s, f in zip(shapes, factors, strict=True)]
    return Tagged(shape_of(node), factors, node)


def _factors_in(arguments: Any, values: dict[fx.Node, Any]) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(node: fx.Node) -> None:
        value = values[node]
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Tagged):
                found.extend(part.factors)

    fx.map_arg(arguments, collect)
    return found
