"""Do the nodes of a graph have the shapes that they are noted to have?

Every op is asked what it makes of its inputs' noted shapes, on tensors without content and at the
batch size that the graph was traced with. All in single precision, so that a graph whose parameters
were turned to another one can be checked as it is.
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.errors import GraphError
from vibfx.graph import concrete, is_tensor, operands, tensor_at, where
from vibfx.rules import rule_for

_META = torch.device("meta")

_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def check_shapes(module: fx.GraphModule) -> None:
    """Compare every node's noted shape with the one that its op gives.

    Raises:
        GraphError: Naming the first node that has another shape, or whose op does not take its
            inputs' shapes.
    """
    check = _Check(module)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            check.known[node] = tensor_at(module, str(node.target))
        elif node.op == "call_function":  # a gate's rows depend on the mode
            check(node)


class _Check:
    """Asks the ops of one graph; the same question once only.

    Attributes:
        module: The graph.
        known: The parameters themselves, and the sizes that were worked out.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.known: dict[fx.Node, Any] = {}
        self._answers: dict[str, Any] = {}

    def __call__(self, node: fx.Node) -> None:
        try:
            if is_tensor(node) and self._is_pointwise(node):
                made: Any = self._broadcast(node)
            else:
                made = self._answer(node)
        except NotImplementedError:  # an op that cannot run without content
            return
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise GraphError(
                f"{node.target} does not take its inputs: {first}", where=where(node)
            ) from error
        noted = node.meta["val"]
        if isinstance(noted, Tensor):
            _compare(node, made, _shape(noted))
        elif isinstance(noted, (list, tuple)):
            for part in {int(user.args[1]) for user in node.users}:  # type: ignore[arg-type]
                _compare(node, made[part], _shape(noted[part]))
        else:
            self.known[node] = made

    def _is_pointwise(self, node: fx.Node) -> bool:
        """PyTorch does not tag all activation functions."""
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return True
        found = rule_for(self.module, node)
        return found is not None and found.activation and len(operands(node)) == 1

    def _answer(self, node: fx.Node) -> Any:
        """The shapes of what an op makes, or the size that it works out."""
        given: Any = fx.map_arg((node.args, node.kwargs), self._given)
        question = f"{node.target}{fx.node.map_aggregate(given, _described)}"
        if question not in self._answers:
            args, kwargs = fx.node.map_aggregate(given, _empty)
            run = _SHORT_CUTS.get(node.target, node.target)
            made = run(*args, **kwargs)
            self._answers[question] = fx.node.map_aggregate(made, _shape)
        return self._answers[question]

    def _broadcast(self, node: fx.Node) -> tuple[int, ...]:
        """What an op on each element makes; many of them run through Python to find that out."""
        shapes = [_shape(self._given(operand)) for operand in operands(node)]
        return shapes[0] if len(shapes) == 1 else tuple(torch.broadcast_shapes(*shapes))

    def _given(self, node: fx.Node) -> Any:
        return self.known[node] if node in self.known else node.meta["val"]


def _compare(node: fx.Node, made: Any, noted: Any) -> None:
    if made != noted:
        raise GraphError(
            f"{node.target} gives shape {made} where {noted} was predicted",
            where=where(node),
            hint="The op's rule does not rewrite one of its literal sizes.",
        )


def _batch_norm(x: Tensor, *options: Any) -> Tensor:
    """The shape of a batch norm's result; the op itself takes long to find it out."""
    for vector in options[:4]:
        if vector is not None and vector.numel() != x.shape[1]:
            raise RuntimeError(f"a vector of {vector.numel()} entries for {x.shape[1]} channels")
    return x


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The shape of a linear layer's result; the op itself goes through three others."""
    if x.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"a weight of shape {tuple(weight.shape)} for {x.shape[-1]} features")
    shape = x.shape[:-1] + weight.shape[:-1]
    return x.new_empty(shape if bias is None else torch.broadcast_shapes(shape, bias.shape))


_SHORT_CUTS: dict[Any, Any] = {
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.linear.default: _linear,
}


def _shape(value: Any) -> Any:
    return tuple(map(concrete, value.shape)) if isinstance(value, Tensor) else concrete(value)


def _described(value: Any) -> Any:
    return (_shape(value), value.dtype) if isinstance(value, Tensor) else concrete(value)


def _empty(value: Any) -> Any:
    """A tensor without content for one that is noted, and no device but its own."""
    if isinstance(value, Tensor):
        return torch.empty(_shape(value), dtype=_single(value.dtype), device=_META)
    return _META if isinstance(value, torch.device) else _single(concrete(value))


def _single(value: Any) -> Any:
    return _SINGLE.get(value, value) if isinstance(value, torch.dtype) else value
