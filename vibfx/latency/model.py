"""How long a graph takes in ONNX Runtime, as a function of which units are left."""

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.coupling import Coupling
from vibfx.latency.layout import Layout
from vibfx.latency.micro_benchmarks import Whole, elements_read
from vibfx.latency.surfaces import Surfaces
from vibfx.latency.timetable import Timetable, timetable

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class LatencyModel:
    """The milliseconds of one example on one thread of this machine's CPU.

    A layer takes what layers of its operator took when they were measured, interpolated between
    the measured widths: those of whole blocks, padded, or, where its widths are none that the
    runtime computes in blocks, those of the slower kernel. Where only one of two layers works in
    blocks, the elements between them are laid out anew. What is no layer takes time in proportion
    to its elements, all together what the measured network took beyond its layers; and what the
    runtime does between operators stays.

    Args:
        layout: What of a graph takes time.
        times: What was measured of it.
    """

    def __init__(self, layout: Layout, times: Timetable) -> None:
        kernels = layout.kernels
        self._counts, self._widths = layout.counts, layout.widths
        self._sources = layout.sources.astype(np.float64)
        blocks = [kernel.blocks(times.block) for kernel in kernels]
        self._steps = np.array([b.steps for b in blocks], dtype=float).reshape(-1, 2)
        self._aligned = np.array([b.aligned for b in blocks], dtype=float).reshape(-1, 2)
        self._direct = np.array([b.direct for b in blocks], dtype=float)
        # The surfaces of all layers without blocks, then those with.
        plain, blocked = ([getattr(t, kind) for t in times.layers] for kind in ("plain", "blocked"))
        self._surfaces = Surfaces(plain + blocked)
        self._numbers = np.arange(len(kernels))
        # Along which dimension of a weight the input's channels go, and what laying out one takes.
        self._reads = np.array([k.reads and not k.loses_groups for k in kernels], dtype=int)
        self._reorder = np.array(
            [
                layer.reorder * elements_read(kernel, kernel.full) / kernel.full[dim]
                for kernel, layer, dim in zip(kernels, times.layers, self._reads, strict=True)
            ]
        )
        self._dims, self._elements = _padded(layout.elements)
        self._calibrate(self._counts.of(np.ones(layout.units, dtype=bool)), times.whole)

    def _calibrate(self, counts: Floats, whole: Whole) -> None:
        """Find what an element takes of what is no layer, and what does not change."""
        # The profiler adds to short kernels; then the whole call is the better measure.
        operators = min(whole.kernels, whole.total)
        beyond = max(operators - self._layers(counts), 0.0)
        self._rest = beyond / max(self._left(counts), 1.0)
        self._between = whole.total - operators

    def cost(self, keep: Bools) -> float:
        """Milliseconds with these units left."""
        counts = self._counts.of(keep)
        return self._layers(counts) + self._rest * self._left(counts) + self._between

    def unit_costs(self, keep: Bools) -> Floats:
        """Milliseconds that go, to first order, with each unit if it alone goes now.

        It is the slope between the measured widths, not that of the staircase, which is 0 almost
        everywhere; and reordering counts for nothing here.
        """
        counts = self._counts.of(keep)
        worth = np.zeros(counts.size)
        for rows, slopes in zip(self._widths.T, self._slopes(counts), strict=True):
            np.add.at(worth, rows, slopes)
        left = np.maximum(counts[self._dims], 1.0)
        for dim in range(self._dims.shape[1]):
            others = np.delete(left, dim, axis=1).prod(1)
            np.add.at(worth, self._dims[:, dim], self._rest * self._elements * others)
        return self._counts.to_units(worth)

    def _left(self, counts: Floats) -> float:
        """Elements of what is no layer."""
        return float(self._elements @ counts[self._dims].prod(1))

    def _layers(self, counts: Floats) -> float:
        first, second = counts[self._widths].T
        blocked = self._are_blocked(first, second)
        # What is read without blocks is not padded.
        steps = np.where(blocked[:, None], self._steps, 1.0)
        steps[second < self._direct, 1] = 1.0
        padded = steps * np.ceil(counts[self._widths] / steps)
        times = self._surfaces.times(self._number(blocked), *padded.T)
        is_there = (first > 0) & (second > 0)
        return float((times + self._reordering(counts, blocked))[is_there].sum())

    def _slopes(self, counts: Floats) -> tuple[Floats, Floats]:
        first, second = np.maximum(counts[self._widths], 1.0).T
        blocked = self._are_blocked(first, second)
        return self._surfaces.slopes(self._number(blocked), first, second)

    def _number(self, blocked: Bools) -> npt.NDArray[np.int64]:
        """The surface of each layer."""
        return self._numbers + self._numbers.size * blocked

    def _are_blocked(self, first: Floats, second: Floats) -> Bools:
        reads = (second < self._direct) | (second % self._aligned[:, 1] == 0)
        blocked: Bools = reads & (first % self._aligned[:, 0] == 0)
        return blocked

    def _reordering(self, counts: Floats, blocked: Bools) -> Floats:
        """What laying out the input anew takes, where a layer reads what another kind made."""
        count = np.where(self._reads == 1, *counts[self._widths].T[::-1])
        is_direct = counts[self._widths[:, 1]] < self._direct
        reads_blocked = blocked & ~is_direct
        # A sum is in blocks where all that it adds are.
        made_plain = self._sources @ ~blocked > 0
        made_blocked = (self._sources @ blocked > 0) & ~made_plain
        other = np.where(reads_blocked, made_plain, made_blocked)
        return np.where(other, self._reorder * count, 0.0)


def _padded(elements: dict[tuple[int, ...], float]) -> tuple[npt.NDArray[np.int64], Floats]:
    """The dimensions of each entry, filled up with that of one index, and its elements."""
    depth = max(map(len, elements), default=0)
    rows = [dims + (0,) * (depth - len(dims)) for dims in elements]
    return np.array(rows, dtype=int).reshape(len(rows), depth), np.array(list(elements.values()))


def latency_model(module: fx.GraphModule, coupling: Coupling) -> LatencyModel:
    """Measure a graph on this machine, unless it is known here, and make a model of it.

    Args:
        module: A graph, gated or not.
        coupling: What ``analyze`` found in it.

    Raises:
        ExportError: The graph cannot be written as ONNX.
    """
    layout = Layout.of(module, coupling)
    return LatencyModel(layout, timetable(module, layout))
