"""Do the nodes of a graph have the shapes that they are noted to have?

The graph is run on tensors without content, at the batch size it was traced with, so that every op
says itself what it makes of its inputs. All in single precision, so that a graph whose parameters
were turned to another one can be checked as it is.
"""

from typing import Any

import torch
from torch import Tensor, fx

from vibfx.errors import GraphError
from vibfx.graph import concrete, is_tensor, operands, shape_of, tensor_at, where

_META = torch.device("meta")

_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def check_shapes(module: fx.GraphModule) -> None:
    """Compare every node's noted shape with the one that its op gives.

    Raises:
        GraphError: Naming the first node that has another shape, or whose op does not take its
            inputs' shapes.
    """
    with torch.no_grad():
        run = _ShapeRun(module)
        run.extra_traceback = False
        run.run(*module.graph.find_nodes(op="placeholder"), enable_io_processing=False)


class _ShapeRun(fx.Interpreter):
    """Runs a graph on the meta device; the same call on the same shapes once only."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._known: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            return None
        if n.op in ("placeholder", "call_module"):  # a gate's rows depend on the mode
            return _noted(n)
        if n.op == "get_attr":
            return _empty(tensor_at(self.module, str(n.target)))  # type: ignore[arg-type]
        try:
            value = self._made(n)
        except NotImplementedError:  # an op that cannot run without content
            return _noted(n)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise GraphError(
                f"{n.target} does not take its inputs: {first}", where=where(n)
            ) from error
        if is_tensor(n) and tuple(value.shape) != shape_of(n):
            raise GraphError(
                f"{n.target} gives shape {tuple(value.shape)} where {shape_of(n)} was predicted",
                where=where(n),
                hint="The op's rule does not rewrite one of its literal sizes.",
            )
        return value

    def _made(self, n: fx.Node) -> Any:
        if torch.Tag.pointwise in getattr(n.target, "tags", ()):
            return self._elementwise(n)
        arguments = self.fetch_args_kwargs_from_env(n)
        key = f"{n.target}{fx.node.map_aggregate(arguments, _described)}"
        if key not in self._known:
            args, kwargs = _on_meta(arguments)
            run = _SHORT_CUTS.get(n.target, n.target)
            self._known[key] = _on_meta(run(*args, **kwargs))
        return self._known[key]

    def _elementwise(self, n: fx.Node) -> Tensor:
        """What an op on each element makes; many of these run through Python to find that out."""
        shapes = [self.env[operand].shape for operand in operands(n)]
        shape = torch.broadcast_shapes(*shapes) if len(shapes) > 1 else shapes[0]
        return torch.empty(shape, dtype=_single(n.meta["val"].dtype), device=_META)


def _batch_norm(x: Tensor, *options: Any) -> Tensor:
    """The shape of a batch norm's result; the op itself takes long to find it out."""
    for vector in options[:4]:
        if vector is not None and vector.numel() != x.shape[1]:
            raise RuntimeError(f"a vector of {vector.numel()} entries for {x.shape[1]} channels")
    return x


_SHORT_CUTS: dict[Any, Any] = {torch.ops.aten.batch_norm.default: _batch_norm}


def _noted(node: fx.Node) -> Any:
    """A value of the noted shape."""
    return fx.node.map_aggregate(node.meta["val"], _empty)


def _empty(value: Any) -> Any:
    if isinstance(value, Tensor):
        shape = [concrete(size) for size in value.shape]
        return torch.empty(shape, dtype=_single(value.dtype), device=_META)
    return concrete(value)


def _described(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


def _on_meta(values: Any) -> Any:
    """Devices replaced by ``meta``, and tensors moved there that an op filled of itself."""
    return fx.node.map_aggregate(values, _to_meta)


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_META)
    return _META if isinstance(value, torch.device) else _single(value)


def _single(value: Any) -> Any:
    return _SINGLE.get(value, value) if isinstance(value, torch.dtype) else value
