"""From a graph to an ONNX file that is proved to do the same in ONNX Runtime."""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.export import Dim, ShapesCollection

from vibfx.arguments import Inputs, arguments
from vibfx.copying import copy_graph_module
from vibfx.errors import ExportError, ParityError
from vibfx.inputs import call_arguments, flattened, has_batch, random_inputs, tensor_inputs
from vibfx.passes.fold_gates import FoldGates
from vibfx.passes.set_mode import SetMode
from vibfx.silence import silenced

aten = torch.ops.aten

PARITY_TOLERANCE = 1e-4
_BATCH_SIZES = (1, 2, 7)


@dataclass(frozen=True)
class Export:
    """An ONNX file that passed its checks.

    Attributes:
        path: The file.
        difference: The largest difference between ONNX Runtime and the graph, divided by the
            largest output.
        nodes: How many nodes the ONNX graph has.
        bytes: The file's size.
    """

    path: Path
    difference: float
    nodes: int
    bytes: int


def export_onnx(
    module: fx.GraphModule,
    path: str | Path,
    example_inputs: Inputs | None = None,
    *,
    seed: int = 0,
) -> Export:
    """Write a graph as ONNX with a dynamic batch, and check it.

    The file's inputs and outputs are the graph's tensors without their nesting, in order. Where
    the graph's batch is fixed, so is the file's.

    Gates that are still there are folded into the weights. The file is checked by
    ``onnx.checker`` and run in ONNX Runtime on fresh inputs at several batch sizes; only then it
    gets its name.

    Args:
        module: A graph.
        path: The file to write.
        example_inputs: Inputs to export with, as for ``trace``; by default random ones of the
            traced shapes.
        seed: Of the inputs on which the two are compared.

    Returns:
        What was written, and the largest difference found.

    Raises:
        ExportError: The graph holds what the exporter cannot write.
        ParityError: ONNX Runtime gives something else. No file is left under the name.
    """
    import onnx

    path = Path(path)
    module = FoldGates()(copy_graph_module(module).cpu()).graph_module
    module = flattened(SetMode(training=False)(module).graph_module)
    generator = torch.Generator().manual_seed(seed)
    inputs = random_inputs(module, 2, generator)
    if example_inputs is not None:
        inputs = _examples(module, example_inputs)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(module, inputs, aside)
        onnx.checker.check_model(str(aside), full_check=True)
        difference = _compare(module, aside, generator)
        nodes = len(onnx.load(str(aside), load_external_data=False).graph.node)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return Export(path, difference, nodes, path.stat().st_size)


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


def _write(module: fx.GraphModule, inputs: tuple[Tensor, ...], path: Path) -> None:
    (output,) = module.graph.find_nodes(op="output")
    results: Any = output.args[0]
    batch = Dim("batch")
    _lay_out_attention(module)
    try:
        with silenced():
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=True,
                dynamic_shapes=tuple(
                    {0: batch} if has_batch(node) else None for node in tensor_inputs(module)
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


def save_program(module: fx.GraphModule, path: str | Path) -> None:
    """Write a graph as an exported program, for ``torch.export.load``.

    It is called as the graph is.

    Args:
        module: A graph without gates.
        path: The ``.pt2`` file to write.
    """
    inputs = random_inputs(module, 2, torch.Generator().manual_seed(0))
    args, kwargs = call_arguments(module, inputs)
    shapes, batch = ShapesCollection(), Dim("batch")
    for node, tensor in zip(tensor_inputs(module), inputs, strict=True):
        if has_batch(node):
            shapes[tensor] = {0: batch}
    dynamic = shapes.dynamic_shapes(module, args, kwargs)
    with silenced():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
        torch.export.save(program, path)


def _names(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{number}" for number in range(count)]


def _compare(module: fx.GraphModule, path: Path, generator: torch.Generator) -> float:
    session = _session(path)
    worst = 0.0
    for batch in _BATCH_SIZES:
        inputs = random_inputs(module, batch, generator)
        with torch.no_grad():
            expected = module(*inputs)
        actual = session.run(None, _feed(session, inputs))
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
    if not wanted.size:
        return 0.0
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    scale = max(float(np.abs(wanted).max()), 1e-12)
    gap = float(np.abs(wanted - got).max()) / scale
    return gap if gap == gap else float("inf")


def _feed(session: Any, inputs: Sequence[Tensor]) -> dict[str, npt.NDArray[Any]]:
    names = [entry.name for entry in session.get_inputs()]
    return {name: x.numpy() for name, x in zip(names, inputs, strict=True)}


def _session(path: Path, threads: int = 0) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def latencies(
    paths: Sequence[Path], module: fx.GraphModule, *, batch: int = 1, seconds: float = 2.0
) -> list[float]:
    """Median milliseconds a run of each file in ONNX Runtime, on one CPU thread.

    The files take turns, so that whatever else the machine does falls on all alike.

    Args:
        paths: ONNX files that take the same inputs.
        module: A graph with those inputs.
        batch: The batch size.
        seconds: About how long to measure in all.
    """
    sessions = [_session(path, threads=1) for path in paths]
    inputs = random_inputs(module, batch, torch.Generator().manual_seed(0))
    feeds = [_feed(session, inputs) for session in sessions]
    times: list[list[float]] = [[] for _ in paths]
    for session, feed in zip(sessions, feeds, strict=True):
        session.run(None, feed)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 5:
        for session, feed, taken in zip(sessions, feeds, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]
