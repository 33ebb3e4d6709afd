"""From a model to a graph of ATen ops."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from vibfx.errors import TraceError
from vibfx.graph import copy_graph_module
from vibfx.passes.erase_asserts import EraseAsserts
from vibfx.passes.fold_constants import FoldConstants
from vibfx.passes.fold_parameters import FoldParameters
from vibfx.passes.functionalize import Functionalize
from vibfx.passes.fuse_shuffles import FuseShuffles
from vibfx.passes.inline_regions import InlineRegions
from vibfx.passes.write_defaults import WriteDefaults

Inputs = Tensor | Sequence[Tensor]

# In this order: each pass meets what the ones before it leave.
CLEANUP = (
    InlineRegions(),
    EraseAsserts(),
    Functionalize(),
    FoldConstants(),
    FoldParameters(),
    FuseShuffles(),
    WriteDefaults(),
)


def trace(model: nn.Module, example_inputs: Inputs) -> fx.GraphModule:
    """Capture a model as a ``torch.fx`` graph of ATen ops, in evaluation mode.

    The first dimension of every input is the batch and stays dynamic. Parameters keep their names,
    nodes their shapes (``meta["val"]``) and their origin (``nn_module_stack``, ``stack_trace``).
    Guards and asserts are dropped, autocast and no-grad regions inlined, ops that write to their
    input replaced, constants folded.

    Args:
        model: Any module that ``torch.export`` can capture. It is not changed, and the graph has
            parameters of its own.
        example_inputs: One tensor or several, each with the batch first.

    Returns:
        The graph.

    Raises:
        TraceError: The model cannot be captured with these inputs; says why.
    """
    inputs = batched(example_inputs)
    modes = {module: module.training for module in model.modules()}
    try:
        exported = _export(model.eval(), inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    unlifted = exported.module(check_guards=False)
    graph = fx.GraphModule(unlifted, copy.deepcopy(unlifted.graph), type(model).__name__)
    for cleanup in CLEANUP:
        cleanup(graph)
    return copy_graph_module(graph).eval()


def batched(example_inputs: Inputs) -> tuple[Tensor, ...]:
    """The inputs as a tuple, with at least two examples each.

    A batch of one would be taken for a constant when the graph is captured.

    Raises:
        TraceError: An input is no tensor or has no batch dimension.
    """
    one = isinstance(example_inputs, Tensor) or not isinstance(example_inputs, Iterable)
    given = (example_inputs,) if one else tuple(example_inputs)
    for value in given:
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise TraceError(
                f"an example input is {_described(value)}",
                hint="Pass one tensor or a sequence of tensors, each with the batch first.",
            )
    return tuple(x if x.shape[0] > 1 else torch.cat([x, x]) for x in given)


def _described(value: object) -> str:
    return "a tensor without dimensions" if isinstance(value, Tensor) else type(value).__name__


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:  # the model is the user's code, and may raise anything
        sizes = ", ".join("x".join(map(str, x.shape[1:])) for x in inputs)
        raise TraceError(
            f"the model does not run on an input of shape {sizes}: {_first_line(error)}",
            hint="Give examples of the shape that the model takes (--input for image folders).",
        ) from error
    try:
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises many kinds, all of which mean this
        raise TraceError(
            f"torch.export cannot capture the model: {_first_line(error)}",
            where=type(model).__name__,
            hint="The message names the construct; a forward without it can be captured.",
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
