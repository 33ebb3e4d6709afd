"""From a model to a graph of ATen ops."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.utils import _pytree as pytree

from vibfx.arguments import Arguments, Inputs, arguments, is_known, register_dataclasses
from vibfx.copying import copy_graph_module
from vibfx.errors import GraphError, TraceError
from vibfx.graph import (
    check_graph,
    drop_dead_calls,
    drop_dead_ties,
    shape_of,
)
from vibfx.inputs import has_batch, tensor_inputs
from vibfx.passes.erase_asserts import EraseAsserts
from vibfx.passes.erase_counters import EraseCounters
from vibfx.passes.fold_constants import FoldConstants
from vibfx.passes.fold_parameters import FoldParameters
from vibfx.passes.functionalize import Functionalize
from vibfx.passes.fuse_shuffles import FuseShuffles
from vibfx.passes.inline_regions import InlineRegions
from vibfx.passes.set_mode import SetMode
from vibfx.passes.write_defaults import WriteDefaults
from vibfx.passes.write_out_composites import WriteOutComposites
from vibfx.silence import silenced

_log = logging.getLogger(__name__)

# In this order: each pass meets what the ones before it leave.
CLEANUP = (
    InlineRegions(),
    EraseAsserts(),
    EraseCounters(),
    WriteOutComposites(),
    Functionalize(),
    SetMode(training=False),
    FoldConstants(),
    FoldParameters(),
    FuseShuffles(),
    WriteDefaults(),
)


def trace(
    model: nn.Module, example_inputs: Inputs, kwargs: Mapping[str, Any] | None = None
) -> fx.GraphModule:
    """Capture a model as a ``torch.fx`` graph of ATen ops, in evaluation mode.

    That is also what becomes of a program that ``torch.export`` captured in training mode.

    The graph is called as the model is and returns what the model returns, nested alike. The first
    dimension of the inputs is the batch and stays dynamic; where the model writes one batch size
    into its code, that size is kept and a warning logged. An input whose first dimension has
    another size than the batch keeps the size it was traced with, and so do all other dimensions;
    numbers and ``None`` are baked in.

    Parameters keep their names, nodes their shapes (``meta["val"]``) and their origin
    (``nn_module_stack``, ``stack_trace``). Guards and asserts are dropped, autocast and no-grad
    regions inlined, ops that write to their input replaced, constants folded.

    Args:
        model: Any module that ``torch.export`` can capture. It is not changed, and the graph has
            parameters of its own.
        example_inputs: A tensor, a sequence of positional arguments, or a mapping of arguments by
            name; tensors have the batch first.
        kwargs: More arguments by name.

    Returns:
        The graph.

    Raises:
        TraceError: The model cannot be captured with these inputs; says why.
    """
    given = arguments(example_inputs, kwargs)
    modes = {module: module.training for module in model.modules()}
    try:
        _evaluate(model)
        exported = _capture(model, given)
    finally:
        for module, training in modes.items():
            module.training = training
    unlifted = exported.module(check_guards=False)
    graph = fx.GraphModule(unlifted, copy.deepcopy(unlifted.graph), type(model).__name__)
    try:
        for cleanup in CLEANUP:
            cleanup(graph)
        check_graph(graph)
    except GraphError as error:
        raise TraceError(error.what, where=error.where, hint=_hint(model)) from error
    drop_dead_calls(graph)
    drop_dead_ties(graph)
    return copy_graph_module(graph).eval()


def _evaluate(model: nn.Module) -> None:
    """Set evaluation mode; of a program of ``torch.export``, which has none, the graph is set."""
    try:
        model.eval()
    except NotImplementedError:
        for module in model.modules():
            module.training = False


def _capture(model: nn.Module, given: Arguments) -> ExportedProgram:
    """Export with a dynamic batch if there is a way, else with the batch fixed as given.

    Which dimension is the batch is a guess where inputs begin with different sizes: the likeliest
    is tried first, and the guess was right if the model leaves that size open.
    """
    failures: list[tuple[Exception, Arguments]] = []
    fixed: ExportedProgram | None = None
    for size in given.batch_sizes():
        inputs = given.with_batch(size)
        try:
            exported = _export(model, inputs, batch=max(size, 2))
        except Exception as error:  # torch.export raises many kinds, all of which mean no
            failures.append((error, inputs))
            if "data-dependent" in str(error):  # whatever the batch is
                raise _refusal(model, error, inputs) from error
            continue
        if any(map(has_batch, tensor_inputs(exported.graph_module))):
            return exported
        fixed = fixed or exported
    try:
        fixed = fixed or _export(model, given, batch=None)
    except Exception as error:
        failures.append((error, given))
        raise _refusal(model, *failures[0]) from failures[0][0]
    _warn_of_a_fixed_batch(model, fixed)
    return fixed


def _export(model: nn.Module, inputs: Arguments, batch: int | None) -> ExportedProgram:
    shapes = ShapesCollection()
    for tensor in inputs.tensors:
        if batch and tensor.dim() and tensor.shape[0] == batch:
            shapes[tensor] = {0: Dim.AUTO}
    args, kwargs = inputs.args, inputs.kwargs
    dynamic = shapes.dynamic_shapes(model, args, kwargs)
    with silenced():
        try:
            return export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
        except Exception:
            if not _registers_results(model, inputs):
                raise
        return export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)


def _registers_results(model: nn.Module, inputs: Arguments) -> bool:
    """Whether the model returns a dataclass that was no pytree yet, and now is one."""
    try:
        return register_dataclasses(_run(model, inputs))
    except Exception:  # the model is the user's code; what is wrong with it is told later
        return False


def _run(model: nn.Module, inputs: Arguments) -> Any:
    """Call the model; what it writes to its buffers goes to copies of them."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        return torch.func.functional_call(model, buffers, inputs.args, inputs.kwargs)


def _refusal(model: nn.Module, error: Exception, inputs: Arguments) -> TraceError:
    """Why no attempt worked: the model does not run on such inputs, or cannot be captured."""
    try:
        result = _run(model, inputs)
    except Exception as own:  # the model is the user's code, and may raise anything
        return TraceError(
            f"the model does not run on {_described(inputs.tensors)}: {_first_line(own)}",
            hint="Give examples of the shape that the model takes (--input for image folders).",
        )
    if strange := next((x for x in pytree.tree_leaves(result) if not is_known(x)), None):
        return TraceError(
            f"the model returns a {type(strange).__name__}, and not only tensors",
            where=type(model).__name__,
            hint="Have it return tensors, also in tuples, lists, dicts or dataclasses. A Hugging "
            "Face model returns no cache with use_cache=False among its inputs or in its config.",
        )
    return TraceError(
        f"torch.export cannot capture the model: {_first_line(error)}",
        where=type(model).__name__,
        hint=_hint(model),
    )


def _described(tensors: list[Tensor]) -> str:
    sizes = ["x".join(map(str, x.shape[1:])) or "()" for x in tensors]
    return f"an input of shape {sizes[0]}" if len(sizes) == 1 else f"inputs of shapes {sizes}"


def _hint(model: nn.Module) -> str:
    """What to do about a construct that cannot be captured: leave it out, or trace around it."""
    sizes = {
        name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()
    }
    largest = max(sizes, key=lambda name: (name == "backbone", sizes[name]), default=None)
    hint = "The message names the construct; a forward without it can be captured."
    if len(sizes) < 2 or largest is None:
        return hint
    return f"{hint} Or trace a part by itself, such as model.{largest} on inputs of its own."


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _warn_of_a_fixed_batch(model: nn.Module, exported: ExportedProgram) -> None:
    user_inputs = set(exported.graph_signature.user_inputs)
    inputs = [n for n in tensor_inputs(exported.graph_module) if n.name in user_inputs]
    sizes = [shape_of(node)[0] for node in inputs if shape_of(node)]
    if sizes:
        _log.warning(
            "the batch of %s is fixed at %d: its code asks for that size",
            type(model).__name__,
            sizes[0],
        )
