"""How long the layers of a network take in ONNX Runtime, each alone, and how long the whole takes.

Times are of the runtime's own profiler, which tells a kernel from the reordering of its input into
blocks: between two layers that both work in blocks there is none. All are of one example on one
thread, and of the eighth of the runs that was fastest: whatever else a machine does only adds.
"""

import functools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from vibfx.export import export_onnx
from vibfx.inputs import random_inputs
from vibfx.latency.kernels import Kernel, Widths

_OPSET, _IR_VERSION = 18, 10

# Each layer runs so often, and the network so long.
_RUNS = 24
_SECONDS = 2.0

# So many bytes of weights and inputs are in memory at once. They take turns, so that a layer does
# not find its weights in the cache: in a network, too, others run in between.
_AT_ONCE = 1 << 28

Point = tuple[Kernel, Widths]


@dataclass(frozen=True)
class Taken:
    """What a layer took, in milliseconds.

    Attributes:
        kernel: The layer itself.
        reorder: To lay its input out in blocks; 0 where it works without.
    """

    kernel: float
    reorder: float


@dataclass(frozen=True)
class Whole:
    """What a network took, in milliseconds.

    Attributes:
        kernels: All its operators.
        total: The whole call, with what the runtime does between them.
    """

    kernels: float
    total: float

    @classmethod
    def read(cls, fields: Any) -> "Whole":
        """From the plain values of its fields.

        Raises:
            ValueError: They are no times.
        """
        try:
            return cls(float(fields["kernels"]), float(fields["total"]))
        except (KeyError, TypeError) as error:
            raise ValueError("these are no times of a network") from error


def measure_layers(points: Sequence[Point]) -> list[Taken]:
    """Measure layers, those next to each other taking turns.

    Args:
        points: Operators, each with the first two sizes of its weight.

    Returns:
        One result a point.
    """
    found: list[Taken] = []
    batch: list[Point] = []
    for point in points:
        if batch and sum(map(_bytes, batch)) + _bytes(point) > _AT_ONCE:
            found += _taking_turns(batch)
            batch = []
        batch.append(point)
    return found + _taking_turns(batch)


def elements_read(kernel: Kernel, widths: Widths) -> int:
    """How many elements the input of such a layer has."""
    return _channels_read(kernel, widths) * int(np.prod(kernel.space))


def measure_whole(module: fx.GraphModule) -> Whole:
    """Measure a network as it is exported.

    Args:
        module: A graph, gated or not; gates are folded into what is measured.

    Raises:
        ExportError: It cannot be written as ONNX.
    """
    inputs = random_inputs(module, 1, torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="vibfx-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(module, path)
        model = path.read_bytes()
        plain, profiled = _session(model), _session(model, Path(folder))
        names = [entry.name for entry in plain.get_inputs()]
        feed = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        totals: list[float] = []
        until = time.perf_counter() + _SECONDS
        while time.perf_counter() < until or len(totals) < _RUNS:
            # The thread's own time: a run is long enough to be interrupted every time.
            start = time.thread_time()
            plain.run(None, feed)
            totals.append(1000 * (time.thread_time() - start))
            profiled.run(None, feed)
        kernels = sum(taken for _, taken in _kernel_times(profiled))
    return Whole(kernels, _fast(totals))


@functools.cache
def channel_block() -> int:
    """How many channels the runtime puts into a block on this processor; 1 where it has no blocks.

    It is read off the weight of a convolution of one channel, which the runtime pads to a block.
    """
    import onnx

    kernel = Kernel("Conv", (4, 4), (("kernel_shape", (1, 1)),), (1, 64, 1, 1))
    with tempfile.TemporaryDirectory(prefix="vibfx-") as folder:
        path = Path(folder) / "optimized.onnx"
        _session(_model(kernel, (1, 64)), optimized=path)
        weights = onnx.load(str(path)).graph.initializer
    return int(max(weight.dims[0] for weight in weights))


def _bytes(point: Point) -> int:
    kernel, widths = point
    return 4 * (int(np.prod((*widths, *kernel.shape[2:]))) + elements_read(*point))


def _taking_turns(points: Sequence[Point]) -> list[Taken]:
    with tempfile.TemporaryDirectory(prefix="vibfx-") as folder:
        runs = [
            (_session(_model(*point), Path(folder) / str(number)), {"x": _input(*point)})
            for number, point in enumerate(points)
        ]
        for _ in range(_RUNS):
            for session, feed in runs:
                session.run(None, feed)
        return [_taken(session) for session, _ in runs]


def _taken(session: Any) -> Taken:
    times = _kernel_times(session)
    reorder = sum(taken for op, taken in times if op == "ReorderInput")
    kernel = sum(taken for op, taken in times if not op.startswith("Reorder"))
    return Taken(kernel, reorder)


def _kernel_times(session: Any) -> list[tuple[str, float]]:
    """Of every node of a profiled session its operator and its milliseconds."""
    path = Path(session.end_profiling())
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event["name"].endswith("_kernel_time"):
            key = event["name"], event["args"]["op_name"]
            times.setdefault(key, []).append(event["dur"] / 1000)
    return [(op, _fast(taken)) for (_, op), taken in times.items()]


def _fast(taken: Sequence[float]) -> float:
    """The mean of the fastest eighth."""
    return float(np.mean(sorted(taken)[: max(len(taken) // 8, 1)]))


def _session(model: bytes, profile: Path | None = None, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _input(kernel: Kernel, widths: Widths) -> npt.NDArray[np.float32]:
    width = _channels_read(kernel, widths)
    is_convolution = kernel.op.startswith("Conv")
    shape = (1, width, *kernel.space) if is_convolution else (*kernel.space, width)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _channels_read(kernel: Kernel, widths: Widths) -> int:
    return widths[1] * kernel.groups_left(widths) if kernel.reads else widths[0]


def _model(kernel: Kernel, widths: Widths) -> bytes:
    """The layer alone; a convolution with the activation that the runtime fuses with it."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.full((*widths, *kernel.shape[2:]), 0.01, np.float32)
    attributes: dict[str, Any] = {name: list(value) for name, value in kernel.attributes}
    if kernel.op.startswith("Conv"):
        attributes["group"] = kernel.groups_left(widths)
    elif kernel.op == "Gemm":
        attributes["transB"] = kernel.reads
    elif kernel.reads:
        weight = np.ascontiguousarray(weight.T)
    nodes = [helper.make_node(kernel.op, ["x", "weight"], ["y"], **attributes)]
    if kernel.op == "Conv":
        nodes.append(helper.make_node("Relu", ["y"], ["z"]))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _input(kernel, widths).shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION).SerializeToString()
    )
