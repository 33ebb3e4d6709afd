"""From a graph to an ONNX file that is proved to do the same in ONNX Runtime."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.export import Dim

from vibfx.arguments import Inputs, arguments
from vibfx.copying import copy_graph_module
from vibfx.errors import ExportError, ParityError
from vibfx.export.metadata import write_metadata
from vibfx.export.runtime import feed, relative_gap, run, session
from vibfx.inputs import (
    Size,
    flattened,
    has_batch,
    image_input,
    other_size,
    random_inputs,
    tensor_inputs,
)
from vibfx.passes.fold_gates import FoldGates
from vibfx.passes.set_mode import SetMode
from vibfx.silence import silenced

aten = torch.ops.aten

PARITY_TOLERANCE = 1e-4
_BATCH_SIZES = (1, 2, 7)
_THREADS = (1, 0)  # 0 is one a core


@dataclass(frozen=True)
class Export:
    """An ONNX file that passed its checks.

    Attributes:
        path: The file.
        difference: The largest difference between ONNX Runtime and the graph, divided by the
            largest output.
        nodes: How many nodes the ONNX graph has.
        bytes: The file's size.
        any_size: Whether it takes images of any height and width.
    """

    path: Path
    difference: float
    nodes: int
    bytes: int
    any_size: bool = False


def export_onnx(
    module: fx.GraphModule,
    path: str | Path,
    example_inputs: Inputs | None = None,
    *,
    seed: int = 0,
    any_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Export:
    """Write a graph as ONNX with a dynamic batch, and check it.

    The file's inputs and outputs are the graph's tensors without their nesting, in order. Where
    the graph's batch is fixed, so is the file's.

    Gates that are still there are folded into the weights. The file is checked by
    ``onnx.checker``, its shapes are inferred, and it is run in ONNX Runtime on fresh inputs at
    several batch sizes and numbers of threads; only then it gets its name.

    Args:
        module: A graph.
        path: The file to write.
        example_inputs: Inputs to export with, as for ``trace``; by default random ones of the
            traced shapes.
        seed: Of the inputs on which the two are compared.
        any_size: Whether the file takes images of any height and width, as the model does where
            ``takes_any_size`` says so.
        metadata: What the file says of itself; see ``write_metadata``.

    Returns:
        What was written, and the largest difference found.

    Raises:
        ExportError: The graph holds what the exporter cannot write, or not for any size.
        ParityError: ONNX Runtime gives something else. No file is left under the name.
    """
    import onnx

    path = Path(path)
    module = FoldGates()(copy_graph_module(module).cpu()).graph_module
    module = flattened(SetMode(training=False)(module).graph_module)
    inputs = random_inputs(module, 2, torch.Generator().manual_seed(seed))
    if example_inputs is not None:
        inputs = _examples(module, example_inputs)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(module, inputs, aside, image_input(module) if any_size else None)
        write_metadata(aside, metadata or {})
        onnx.checker.check_model(str(aside), full_check=True)
        sizes = [None, other_size(module)] if any_size else [None]
        difference = _compare(module, aside, seed, sizes)
        nodes = len(onnx.load(str(aside), load_external_data=False).graph.node)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return Export(path, difference, nodes, path.stat().st_size, any_size)


def _examples(module: fx.GraphModule, example_inputs: Inputs) -> tuple[Tensor, ...]:
    """The user's examples as flat inputs, with at least two of each where the batch is free."""
    given = arguments(example_inputs).tensors
    wanted = tensor_inputs(module)
    if len(given) != len(wanted):
        raise ExportError(
            f"the graph takes {len(wanted)} tensors, the example inputs hold {len(given)}",
            hint="Give the arguments that the model was traced with, or none.",
        )
    return tuple(
        torch.cat([x, x]) if has_batch(node) and x.shape[0] == 1 else x
        for node, x in zip(wanted, given, strict=True)
    )


def _write(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], path: Path, images: fx.Node | None
) -> None:
    (output,) = module.graph.find_nodes(op="output")
    results: Any = output.args[0]
    free = {0: Dim("batch")}
    size = {2: Dim("height"), 3: Dim("width")}
    _lay_out_attention(module)
    try:
        with silenced():
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=True,
                dynamic_shapes=tuple(
                    (free if has_batch(node) else {}) | (size if node is images else {})
                    for node in tensor_inputs(module)
                ),
                input_names=_names("input", len(inputs)),
                output_names=_names("output", len(results)),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"the graph cannot be written as ONNX: {reason}") from error


def _lay_out_attention(module: fx.GraphModule) -> None:
    """Let results of attention lie in memory as their shape says, in place; ONNX is the same.

    The exporter writes attention out, whose result then lies otherwise than that of the fused op,
    so that a view of it fails which the fused op's allowed.
    """
    for view in module.graph.find_nodes(op="call_function", target=aten.view.default):
        view.target = aten.reshape.default
    target = aten.scaled_dot_product_attention.default
    for attention in module.graph.find_nodes(op="call_function", target=target):
        with module.graph.inserting_after(attention):
            copied = module.graph.call_function(aten.clone.default, (attention,))
        attention.replace_all_uses_with(copied, delete_user_cb=lambda user, own=copied: user != own)
        copied.update_kwarg("memory_format", torch.contiguous_format)
    module.recompile()


def _names(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{number}" for number in range(count)]


def _compare(module: fx.GraphModule, path: Path, seed: int, sizes: Sequence[Size]) -> float:
    """The largest difference of any output, over batches, threads and sizes of images."""
    sessions = [session(path, threads=threads) for threads in _THREADS]
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch, size in itertools.product(_BATCH_SIZES, sizes):
        inputs = random_inputs(module, batch, generator, size=size)
        with torch.no_grad():
            expected = module(*inputs)
        for opened in sessions:
            actual = run(opened, feed(opened, inputs))
            for wanted, got in zip(expected, actual, strict=True):
                worst = max(worst, _gap(wanted.numpy(), got))
    if not worst <= PARITY_TOLERANCE:
        raise ParityError(
            f"ONNX Runtime differs from the graph by {worst:.2e}, allowed {PARITY_TOLERANCE:.0e}",
            hint="Nothing was written. Please report the model: this is an error of the exporter.",
        )
    return worst


def _gap(wanted: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    if wanted.shape != got.shape:
        raise ParityError(f"ONNX Runtime gives shape {got.shape}, the graph {wanted.shape}")
    return relative_gap(wanted, got)
