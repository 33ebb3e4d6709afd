"""ONNX Runtime: sessions, what they are fed with, and how long they take."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from vibfx.errors import ParityError
from vibfx.inputs import random_inputs

CPU = "CPUExecutionProvider"

Feed = Mapping[str, npt.NDArray[Any]]

# Medians of fewer runs say little.
_FEWEST_RUNS = 5


def session(path: str | Path, *, threads: int = 0, providers: Sequence[str] = (CPU,)) -> Any:
    """An ``onnxruntime.InferenceSession`` that keeps its warnings to itself.

    Args:
        path: An ONNX file.
        threads: How many it computes one op with; 0 for one a core.
        providers: What it computes on, the first that can; by default the CPU.

    Raises:
        ParityError: ONNX Runtime cannot open the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of an error is in the exception, too
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # of one of ONNX Runtime's many classes
        raise ParityError(
            f"ONNX Runtime cannot open the file: {_first_line(error)}", where=str(path)
        ) from error


def feed(opened: Any, inputs: Sequence[Tensor]) -> Feed:
    """What a session's ``run`` takes: its inputs by name, in their order."""
    names = [entry.name for entry in opened.get_inputs()]
    return {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}


def run(opened: Any, given: Feed) -> list[npt.NDArray[Any]]:
    """A session's outputs.

    Raises:
        ParityError: ONNX Runtime cannot compute them.
    """
    try:
        outputs: list[npt.NDArray[Any]] = opened.run(None, given)
    except Exception as error:  # of one of ONNX Runtime's many classes
        shapes = " and ".join("x".join(map(str, x.shape)) for x in given.values())
        raise ParityError(
            f"ONNX Runtime cannot run the file on {shapes}: {_first_line(error)}"
        ) from error
    return outputs


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def timings(sessions: Sequence[Any], feeds: Sequence[Feed], *, seconds: float) -> list[list[float]]:
    """Milliseconds of every run of each session, all taking turns.

    So whatever else the machine does falls on all alike. Each runs once before, and then five
    times at least.

    Args:
        sessions: What to run.
        feeds: With what, for each of them.
        seconds: About how long to measure in all.
    """
    for opened, given in zip(sessions, feeds, strict=True):
        opened.run(None, given)
    times: list[list[float]] = [[] for _ in sessions]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < _FEWEST_RUNS:
        for opened, given, taken in zip(sessions, feeds, times, strict=True):
            start = time.perf_counter()
            opened.run(None, given)
            taken.append(1000 * (time.perf_counter() - start))
    return times


def latencies(
    paths: Sequence[Path], module: fx.GraphModule, *, batch: int = 1, seconds: float = 2.0
) -> list[float]:
    """Median milliseconds a run of each file in ONNX Runtime, on one CPU thread.

    Args:
        paths: ONNX files that take the same inputs.
        module: A graph with those inputs.
        batch: The batch size.
        seconds: About how long to measure in all.
    """
    sessions = [session(path, threads=1) for path in paths]
    inputs = random_inputs(module, batch, torch.Generator().manual_seed(0))
    feeds = [feed(opened, inputs) for opened in sessions]
    return [statistics.median(taken) for taken in timings(sessions, feeds, seconds=seconds)]


def relative_gap(wanted: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """The largest difference of two arrays of one shape, over the largest of the first."""
    if not wanted.size:
        return 0.0
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    gap = float(np.abs(wanted - got).max()) / max(float(np.abs(wanted).max()), 1e-12)
    return gap if gap == gap else float("inf")
