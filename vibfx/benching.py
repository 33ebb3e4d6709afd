"""ONNX files side by side: time, size, memory, and whether they agree."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vibfx.data import Data, inputs_and_labels
from vibfx.errors import InputError
from vibfx.export.description import Description, Value, describe
from vibfx.export.onnx_module import OnnxModule
from vibfx.export.runtime import CPU, Feed, relative_gap, run, session, timings
from vibfx.training.evaluation import Score, evaluate

_PEAK_MEMORY = Path(__file__).parent / "export" / "peak_memory.py"


@dataclass(frozen=True)
class Timing:
    """How long a run takes.

    Attributes:
        threads: How many threads one op is computed with; 0 is one a core.
        batch: How many examples a run has.
        median_ms: Milliseconds a run, the median.
        p95_ms: The 95th percentile.
        runs: How many there were.
    """

    threads: int
    batch: int
    median_ms: float
    p95_ms: float
    runs: int


@dataclass(frozen=True)
class FileBench:
    """One file's row.

    Attributes:
        path: The file.
        bytes: Its size.
        peak_bytes: By how much a process grows that opens and runs it, with the first of the
            numbers of threads and of the batches; None where that cannot be measured.
        timings: For every number of threads and batch.
        difference: The largest difference of any output to the first file's on the same inputs,
            over that one's largest output.
        score: On the test set; None without data.
    """

    path: Path
    bytes: int
    peak_bytes: int | None
    timings: tuple[Timing, ...]
    difference: float
    score: Score | None


def bench(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    provider: str = CPU,
    input_shape: tuple[int, ...] | None = None,
    data: Data | None = None,
    seconds: float = 2.0,
    seed: int = 0,
) -> list[FileBench]:
    """Measure ONNX files that take the same inputs.

    Within a number of threads and a batch all files take turns, run by run. They get examples of
    the test set where there is data, else random numbers.

    Args:
        paths: The files; the others are compared with the first.
        threads: Numbers of threads; 0 is one a core.
        batches: Numbers of examples a run.
        provider: What ONNX Runtime computes on.
        input_shape: The shape of one example, where the files leave more open than the batch.
        data: What to measure the accuracy on, and the agreement with the first file.
        seconds: About how long to measure each file for each number of threads and batch.
        seed: Of the inputs.

    Returns:
        One row a file.

    Raises:
        ModelFileError: One is no ONNX file.
        InputError: They do not take the same inputs, their inputs' shape is not known, or ONNX
            Runtime has no such provider.
        ParityError: ONNX Runtime cannot open or run one.
    """
    found = [describe(path) for path in paths]
    _check_alike(paths, found)
    _check_provider(provider)
    generator = np.random.default_rng(seed)
    rows: list[list[Timing]] = [[] for _ in paths]
    differences = np.zeros(len(paths))
    peaks: list[int | None] = []
    for batch in batches:
        if data is None:
            given = _inputs(found[0], batch, input_shape, generator)
        else:
            given = _examples(found[0], data, batch)
        if not peaks:
            peaks = [_peak(path, threads[0], provider, given) for path in paths]
        for count in threads:
            sessions = [session(path, threads=count, providers=[provider]) for path in paths]
            outputs = [run(opened, given) for opened in sessions]
            gaps = [_gap(outputs[0], own, path) for own, path in zip(outputs, paths, strict=True)]
            differences = np.maximum(differences, gaps)
            taken = timings(sessions, [given] * len(paths), seconds=seconds * len(paths))
            for row, times in zip(rows, taken, strict=True):
                middle, slow = np.percentile(times, [50, 95])
                row.append(Timing(count, batch, float(middle), float(slow), len(times)))
    scores = _scores(paths, data)
    return [
        FileBench(path, d.bytes, peak, tuple(row), float(gap), score)
        for path, d, peak, row, gap, score in zip(
            paths, found, peaks, rows, differences, scores, strict=True
        )
    ]


def _check_alike(paths: Sequence[Path], found: Sequence[Description]) -> None:
    def taken(description: Description) -> list[tuple[str, str, int]]:
        return [(value.name, value.type, len(value.shape)) for value in description.inputs]

    for path, other in zip(paths[1:], found[1:], strict=True):
        if taken(other) != taken(found[0]):
            wanted, own = ("; ".join(map(str, d.inputs)) for d in (found[0], other))
            raise InputError(
                f"the files do not take the same inputs: {own} instead of {wanted}", where=str(path)
            )


def _check_provider(provider: str) -> None:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise InputError(
            f"ONNX Runtime has no provider {provider!r} here", hint=f"There is {', '.join(known)}."
        )


def _inputs(
    file: Description, batch: int, shape: tuple[int, ...] | None, generator: np.random.Generator
) -> Feed:
    """Random numbers for every input: normal ones, or 0 and 1 where they are whole."""
    return {
        value.name: _random(value, _sizes(value, batch, shape), generator) for value in file.inputs
    }


def _examples(file: Description, data: Data, batch: int) -> Feed:
    """The first examples of the test set, over and over where it has too few."""
    if len(file.inputs) != 1:
        raise InputError(f"data feeds one input, the files take {len(file.inputs)}")
    x, seen = [], 0
    for given in data.test:
        x.append(inputs_and_labels(given)[0])
        seen += len(x[-1])
        if seen >= batch:
            break
    found = np.resize(torch.cat(x).numpy(), (batch, *x[0].shape[1:]))
    if file.inputs[0].type != str(found.dtype) or not file.inputs[0].fits(found.shape):
        raise InputError(
            f"the data is {found.dtype} {' x '.join(map(str, found.shape))}, "
            f"the files take {file.inputs[0]}",
            where=data.name,
        )
    return {file.inputs[0].name: found}


def _sizes(value: Value, batch: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    first, *rest = value.shape or (1,)
    if not value.shape:
        return ()
    if any(isinstance(size, str) or not size for size in rest):
        if shape is None or len(shape) != len(rest):
            raise InputError(
                f"the file does not say how large its input is: {value}",
                hint="Pass the shape of one example, such as --input 3x224x224.",
            )
        rest = list(shape)
    if isinstance(first, int) and first and first != batch:
        raise InputError(
            f"the file takes batches of {first} only: {value}", hint=f"Pass --batch {first}."
        )
    return (batch, *map(int, rest))


def _random(value: Value, sizes: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if np.issubdtype(np.dtype(value.type), np.floating):
        return generator.normal(size=sizes).astype(value.type)
    return generator.integers(0, 2, size=sizes).astype(value.type)


def _gap(wanted: list[np.ndarray], got: list[np.ndarray], path: Path) -> float:
    if [x.shape for x in wanted] != [x.shape for x in got]:
        raise InputError("the files do not return the same outputs", where=str(path))
    return max((relative_gap(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)


def _peak(path: Path, threads: int, provider: str, given: Feed) -> int | None:
    """By how much a process of its own grows; None where the system does not tell."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **dict(given))  # type: ignore[arg-type]  # numpy's stub takes them for flags
        script = [sys.executable, str(_PEAK_MEMORY), str(path), str(threads), provider]
        done = subprocess.run([*script, str(inputs)], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _scores(paths: Sequence[Path], data: Data | None) -> list[Score | None]:
    if data is None:
        return [None] * len(paths)
    modules = [OnnxModule(path) for path in paths]
    with torch.no_grad():
        return [evaluate(module, data.test, original=modules[0]) for module in modules]
