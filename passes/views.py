"""Which tensors of a graph share memory, and how a changed view is put back into its base."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from vibfx.graph import concrete

aten = torch.ops.aten

Put = Callable[["Writer", fx.Node, fx.Node, fx.Node], fx.Node | None]


def may_be_view(node: fx.Node) -> bool:
    """Whether the node's result may share memory with its first input, going by the op alone."""
    target = node.target
    if target is operator.getitem:  # one of several: the parts of a split share its memory
        return may_be_view(node.all_input_nodes[0])
    # A constant is lifted anew on every run, so nothing keeps what is written to it.
    if not isinstance(target, torch._ops.OpOverload) or target is aten.lift_fresh.default:
        return False
    return any(r.alias_info and not r.alias_info.is_write for r in target._schema.returns)


def views_of(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose results really do share memory with their first input.

    ``reshape``, ``contiguous`` or ``to`` sometimes copy; running the graph on tensors without
    values tells.
    """
    inputs = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    mode = next((value.fake_mode for value in inputs if isinstance(value, FakeTensor)), None)
    run = _Storages(module, mode)
    run.propagate_dont_convert_inputs(*inputs)
    found = set()
    for node in module.graph.nodes:
        if may_be_view(node) and node.all_input_nodes:
            own, viewed = run.storages(node), run.storages(node.all_input_nodes[0])
            if not own.isdisjoint(viewed):
                found.add(node)
    return found


class _Storages(FakeTensorProp):
    """Keeps every node's value, so that the identity of its memory means something."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode | None) -> None:
        super().__init__(module, mode)
        self.kept: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        meta = dict(n.meta)
        result = super().run_node(n)
        n.meta = meta  # what was traced stays what is known of the node
        self.kept[n] = result
        return result

    def storages(self, node: fx.Node) -> set[int]:
        value = self.kept.get(node)
        parts = value if isinstance(value, (list, tuple)) else [value]
        return {x.untyped_storage()._cdata for x in parts if isinstance(x, Tensor)}


class Writer:
    """Adds nodes to a graph, each behind the last, with the origin of the write they stand for.

    Args:
        graph: The graph.
        origin: The node behind which the first one goes.
    """

    def __init__(self, graph: fx.Graph, origin: fx.Node) -> None:
        self._graph, self._origin, self._last = graph, origin, origin

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A call, with its shape worked out."""
        with self._graph.inserting_after(self._last):
            node = self._graph.call_function(target, args, kwargs)
        self._last = node
        real_args, real_kwargs = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        values = torch.utils._pytree.tree_leaves((real_args, real_kwargs))
        mode = next(x.fake_mode for x in values if isinstance(x, FakeTensor))
        origin = self._origin.meta
        node.meta = {k: origin[k] for k in ("nn_module_stack", "stack_trace") if k in origin}
        with mode:
            node.meta["val"] = target(*real_args, **real_kwargs)
        return node

    def again(self, view: fx.Node, base: fx.Node) -> fx.Node:
        """The same view of another base."""
        parent, *rest = view.args
        if view.target is operator.getitem:
            assert isinstance(parent, fx.Node)
            return self.call(operator.getitem, self.again(parent, base), *rest)
        return self.call(view.target, base, *rest, **view.kwargs)


def base_of(view: fx.Node) -> fx.Node:
    """The tensor that a view is of; for one of several parts, the tensor that was split."""
    source = view.all_input_nodes[0]
    return source.all_input_nodes[0] if view.target is operator.getitem else source


def put_back(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node | None:
    """The base with ``value`` where ``view`` looks; None if there is no op for that."""
    if view.target is operator.getitem:
        return _put_part(writer, base, view, value)
    put = _PUTS.get(view.target)
    return put(writer, base, view, value) if put else None


def _argument(view: fx.Node, name: str, position: int, default: Any = None) -> Any:
    return view.args[position] if len(view.args) > position else view.kwargs.get(name, default)


def _put_slice(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    if base.meta["val"].shape == view.meta["val"].shape:  # "all of it": x[:, 1] slices the batch
        return value
    return writer.call(aten.slice_scatter.default, base, value, *view.args[1:], **view.kwargs)


def _put_narrow(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node | None:
    dim, start, length = (
        _argument(view, n, i) for i, n in enumerate(("dim", "start", "length"), 1)
    )
    if not all(isinstance(n, int) for n in (start, length)):
        return None
    start += base.meta["val"].shape[dim] if start < 0 else 0
    return writer.call(aten.slice_scatter.default, base, value, dim, start, start + length)


def _put_select(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    return writer.call(aten.select_scatter.default, base, value, *view.args[1:], **view.kwargs)


def _put_diagonal(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    return writer.call(aten.diagonal_scatter.default, base, value, *view.args[1:], **view.kwargs)


def _put_transpose(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    return writer.call(view.target, value, *view.args[1:])


def _put_permute(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    dims = [int(dim) % len(view.args[1]) for dim in view.args[1]]  # type: ignore[arg-type, union-attr]
    return writer.call(aten.permute.default, value, [dims.index(d) for d in range(len(dims))])


def _put_movedim(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node:
    return writer.call(view.target, value, view.args[2], view.args[1])


def _put_reshaped(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node | None:
    sizes = base.meta["val"].shape
    open_sizes = sum(not isinstance(size, int) for size in sizes)
    if base.meta["val"].dtype != view.meta["val"].dtype or open_sizes > 1:
        return None
    known = [concrete(size) if isinstance(size, int) else -1 for size in sizes]
    return writer.call(aten.reshape.default, value, known)


def _put_same(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node | None:
    return value if base.meta["val"].dtype == view.meta["val"].dtype else None


def _put_part(writer: Writer, base: fx.Node, view: fx.Node, value: fx.Node) -> fx.Node | None:
    several, index = view.args
    assert isinstance(several, fx.Node)
    assert isinstance(index, int)
    if several.target is aten.unbind.int:
        dim = _argument(several, "dim", 1, 0)
        return writer.call(aten.select_scatter.default, base, value, dim, index)
    if several.target not in _SPLITS:
        return None
    dim = _argument(several, "dim", 2, 0)
    sizes = [part.shape[dim] for part in several.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    start = sum(sizes[:index])
    return writer.call(aten.slice_scatter.default, base, value, dim, start, start + sizes[index])


_SPLITS = {
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
}

_PUTS: dict[Any, Put] = {
    aten.slice.Tensor: _put_slice,
    aten.narrow.default: _put_narrow,
    aten.select.int: _put_select,
    aten.diagonal.default: _put_diagonal,
    aten.transpose.int: _put_transpose,
    aten.t.default: _put_transpose,
    aten.numpy_T.default: _put_transpose,
    aten.mT.default: _put_transpose,
    aten.permute.default: _put_permute,
    aten.movedim.int: _put_movedim,
    aten.movedim.intlist: _put_movedim,
    **dict.fromkeys(
        (
            aten.view.default,
            aten.reshape.default,
            aten.view_as.default,
            aten.reshape_as.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        _put_reshaped,
    ),
    **dict.fromkeys(
        (
            aten.alias.default,
            aten.detach.default,
            aten.contiguous.default,
            aten.to.dtype,
            aten.to.device,
            aten.to.dtype_layout,
            aten.to.other,
            aten.type_as.default,
        ),
        _put_same,
    ),
}
