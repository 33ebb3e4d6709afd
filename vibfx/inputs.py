"""What a graph is called with: its flat tensor inputs, its batch, and random values for them.

A traced graph is called the way the model is, with whatever nesting of arguments that takes. Under
that lies a flat list: one placeholder for each leaf. The leaves that are tensors are the *inputs*
here; numbers and ``None`` were baked in when the graph was traced, and their placeholders are
looked at by nothing.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from vibfx.graph import is_tensor, shape_of

aten = torch.ops.aten

Size = tuple[int, int] | None
"""Height and width of images; None where they are as traced."""

_LARGER = 32

# Ops that hand whole numbers on as they are, so that an embedding behind them reads the input.
_PASS_ON = {
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.slice.Tensor,
    aten.select.int,
    aten.contiguous.default,
    aten.clone.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
}


def tensor_inputs(module: fx.GraphModule) -> list[fx.Node]:
    """The placeholders that take tensors, in the order of the flat inputs."""
    return [node for node in module.graph.find_nodes(op="placeholder") if is_tensor(node)]


def has_batch(node: fx.Node) -> bool:
    """Whether an input's first dimension is a batch of any size, and not fixed as traced."""
    if not is_tensor(node) or not node.meta["val"].dim():
        return False
    size = node.meta["val"].shape[0]
    # A size that turned out to be fixed only after it was made a symbol is a symbol for a number.
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def traced_batch(module: fx.GraphModule) -> int:
    """How many examples the graph was traced with; 1 where no input has dimensions."""
    inputs = [node for node in tensor_inputs(module) if shape_of(node)]
    batched = [node for node in inputs if has_batch(node)]
    return next((shape_of(node)[0] for node in (*batched, *inputs)), 1)


def image_input(module: fx.GraphModule) -> fx.Node | None:
    """The input that takes images: the only one, of floats ``(N, C, H, W)``."""
    inputs = tensor_inputs(module)
    if len(inputs) != 1 or len(shape_of(inputs[0])) != 4:
        return None
    return inputs[0] if inputs[0].meta["val"].is_floating_point() else None


def other_size(module: fx.GraphModule) -> Size:
    """Images of another size than the traced one, and not square.

    So much larger that what a network divides them by, mostly some power of two, divides them
    still.
    """
    images = image_input(module)
    if images is None:
        return None
    _, _, height, width = shape_of(images)
    return height + _LARGER, width + 2 * _LARGER


def flattened(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph as a function of its flat tensor inputs, with the tensors of its result.

    Args:
        module: A graph, called in any way.

    Returns:
        A graph module that takes one positional argument for each of ``tensor_inputs(module)`` and
        returns a tuple of tensors. It shares parameters and buffers with ``module``.
    """
    graph = copy.deepcopy(module.graph)
    graph.set_codegen(CodeGen())
    for node in graph.find_nodes(op="placeholder"):
        if not is_tensor(node):
            _bake_in(node)
    (output,) = graph.find_nodes(op="output")
    results: list[fx.Node] = []
    fx.map_arg(output.args[0], results.append)
    output.args = (tuple(n for n in results if is_tensor(n) or n.op == "get_attr"),)
    flat = fx.GraphModule(module, graph, type(module).__name__)
    # The attributes came along by reference; the mode did not.
    flat.training = module.training
    return flat


def _bake_in(placeholder: fx.Node) -> None:
    """Put a constant argument's value where it is read, and drop its placeholder."""
    value = placeholder.meta.get("val")
    for user in list(placeholder.users):
        user.args = fx.map_arg(user.args, lambda n: value if n is placeholder else n)
        user.kwargs = fx.map_arg(user.kwargs, lambda n: value if n is placeholder else n)
    placeholder.graph.erase_node(placeholder)


def call_arguments(
    module: fx.GraphModule, inputs: Sequence[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Flat tensor inputs as the arguments that the graph is called with.

    Args:
        module: A graph.
        inputs: One tensor for each of ``tensor_inputs(module)``.

    Returns:
        ``args, kwargs`` for ``module(*args, **kwargs)``, baked-in constants among them.
    """
    given = iter(inputs)
    leaves = [
        next(given) if is_tensor(node) else node.meta.get("val")
        for node in module.graph.find_nodes(op="placeholder")
    ]
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is None:
        return tuple(leaves), {}
    args, kwargs = pytree.tree_unflatten(leaves, info.in_spec)
    return tuple(args), dict(kwargs)


def random_inputs(
    module: fx.GraphModule, batch: int, generator: torch.Generator, *, size: Size = None
) -> tuple[Tensor, ...]:
    """Flat tensor inputs that the graph takes.

    Floating-point ones are normal. Whole numbers are any index of the embedding they go into, and
    otherwise 0 and 1.

    Args:
        module: The graph; floating-point inputs take the type and device of its parameters.
        batch: How many examples, for the inputs whose batch is not fixed.
        generator: What draws them, on the CPU; always in float64, so that the same numbers come
            out for any precision.
        size: Height and width of images; None for the traced ones.

    Returns:
        One tensor for each of ``tensor_inputs(module)``.
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    inputs = []
    for node in tensor_inputs(module):
        shape, dtype = shape_of(node), node.meta["val"].dtype
        if has_batch(node):
            shape = (batch, *shape[1:])
        if size is not None and node is image_input(module):
            shape = (*shape[:2], *size)
        if dtype.is_floating_point:
            value = torch.randn(shape, generator=generator, dtype=torch.float64).to(like.dtype)
        elif dtype.is_complex:
            value = torch.randn(shape, generator=generator, dtype=torch.complex128).to(dtype)
        else:
            value = torch.randint(0, _values(node), shape, generator=generator).to(dtype)
        inputs.append(value.to(like.device))
    return tuple(inputs)


def _values(node: fx.Node) -> int:
    """How many values, from 0 on, whole numbers here may take."""
    return min(_tables_read(node), default=2) if node.meta["val"].dtype != torch.bool else 2


def _tables_read(node: fx.Node) -> list[int]:
    """The lengths of the embeddings that a tensor of whole numbers is looked up in."""
    found: list[int] = []
    for user in node.users:
        if user.target is aten.embedding.default and user.args[1] is node:
            table = user.args[0]
            found += [shape_of(table)[0]] if isinstance(table, fx.Node) else []
        elif user.target in _PASS_ON and user.args[0] is node:
            found += _tables_read(user)
    return found
