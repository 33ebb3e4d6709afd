"""What layers take over grids of their widths: which widths are measured, and what is noted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vibfx.latency.kernels import NEVER, Blocks, Kernel
from vibfx.latency.micro_benchmarks import Point, Taken, elements_read

Measure = Callable[[Sequence[Point]], Sequence[Taken]]

# Of a width that may become smaller these shares are measured, and the smallest step.
_SHARES = (1 / 4, 1 / 2, 3 / 4, 1.0)

# For the first two dimensions of a weight, whether they may become smaller, and widths to measure.
Free = tuple[bool, bool]
Grid = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Surface:
    """Milliseconds over a grid of the first two sizes of a weight.

    Attributes:
        first: The first sizes, ascending; a single one where it cannot change.
        second: The second ones.
        times: A row for each of the first sizes, with a time for each of the second ones.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    times: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, fields: Any) -> "Surface":
        """From the plain values of its fields.

        Raises:
            ValueError: They are no surface.
        """
        first, second = (tuple(map(int, fields[axis])) for axis in ("first", "second"))
        times = np.array(fields["times"], dtype=float)
        if times.shape != (len(first), len(second)) or not times.size or not (times >= 0).all():
            raise ValueError("the times do not fit their grid")
        return cls(first, second, tuple(map(tuple, times.tolist())))


@dataclass(frozen=True)
class LayerTimes:
    """What a layer takes.

    Attributes:
        blocked: Where the runtime works in blocks; None where it never does.
        plain: Where it does not; None where it always does.
        reorder: Milliseconds for each element of the input that has to be laid out anew.
    """

    blocked: Surface | None
    plain: Surface | None
    reorder: float

    @classmethod
    def read(cls, fields: Any) -> "LayerTimes":
        """From the plain values of its fields.

        Raises:
            ValueError: They are no times.
        """
        try:
            blocked, plain = (
                None if fields[kind] is None else Surface.read(fields[kind])
                for kind in ("blocked", "plain")
            )
            return cls(blocked, plain, float(fields["reorder"]))
        except (KeyError, TypeError) as error:
            raise ValueError("these are no times of a layer") from error


def measure_layer(kernel: Kernel, free: Free, block: int, measure: Measure) -> LayerTimes:
    """Measure a layer over the grids of its widths.

    Args:
        kernel: The layer.
        free: For the first two dimensions of its weight, whether they may become smaller.
        block: How many channels the runtime puts into a block.
        measure: What measures.
    """
    blocks = kernel.blocks(block)
    blocked, reorder = _measured(kernel, _blocked_grid(kernel, free, blocks), measure)
    plain, _ = _measured(kernel, _plain_grid(kernel, free, blocks), measure)
    return LayerTimes(blocked and _from_nothing(blocked, free), plain, reorder)


def _measured(kernel: Kernel, grid: Grid, measure: Measure) -> tuple[Surface | None, float]:
    """The surface over a grid, and what reordering takes for an element."""
    first, second = grid
    points = [(kernel, (a, b)) for a in first for b in second]
    if not points:
        return None, 0.0
    taken = measure(points)
    elements = sum(elements_read(*point) for point in points)
    times = np.reshape([each.kernel for each in taken], (len(first), len(second)))
    rows = tuple(map(tuple, times.tolist()))
    return Surface(first, second, rows), sum(each.reorder for each in taken) / elements


def _from_nothing(surface: Surface, free: Free) -> Surface:
    """The same with no time at no width, so that there is a slope within the first block, too."""
    first, second = (
        (0, *axis) if is_free else axis
        for axis, is_free in zip((surface.first, surface.second), free, strict=True)
    )
    times = np.pad(surface.times, ((free[0], 0), (free[1], 0)))
    return Surface(first, second, tuple(map(tuple, times.tolist())))


def _blocked_grid(kernel: Kernel, free: Free, blocks: Blocks) -> Grid:
    """Whole blocks, where the widths that cannot change are such, too."""
    if not _may_be_blocked(kernel, free, blocks):
        return (), ()
    first, second = _grid(kernel, free, blocks)
    if free[1] and blocks.direct > 1:  # what is read without blocks, up to the widest such
        second = (blocks.direct // 2, blocks.direct - 1, *second)
    return first, second


def _plain_grid(kernel: Kernel, free: Free, blocks: Blocks) -> Grid:
    """Widths next to whole blocks where those are computed in blocks, else any."""
    first, second = _grid(kernel, free, blocks)
    if not _may_be_blocked(kernel, free, blocks):
        return first, second
    units, aligned = kernel.units, blocks.aligned
    is_choosy = [free[dim] and units[dim] < aligned[dim] for dim in (0, 1)]
    if is_choosy[0]:
        first = _beside(first, units[0])
    if free[0] and units[0] < first[0]:  # few channels take more than their share
        first = (units[0], *first)
    if is_choosy[1]:
        second = _beside(second, units[1], blocks.direct)
    return (first, second) if any(is_choosy) else ((), ())


def _may_be_blocked(kernel: Kernel, free: Free, blocks: Blocks) -> bool:
    """Whether the widths that cannot change are whole blocks."""
    first, second = kernel.full
    widths = 0 if free[0] else first, 0 if free[1] else second
    return NEVER not in blocks.aligned and blocks.hold(widths)


def _grid(kernel: Kernel, free: Free, blocks: Blocks) -> Grid:
    """Multiples of what goes at once and of blocks; a width that cannot change is as it is."""
    first, second = (
        _shares(size, max(step, unit)) if is_free else (size,)
        for size, step, unit, is_free in zip(
            kernel.full, blocks.steps, kernel.units, free, strict=True
        )
    )
    return first, second


def _shares(size: int, step: int) -> tuple[int, ...]:
    """Some sizes up to the full one, rounded up to multiples of a step."""
    smallest = step if step > 1 else math.ceil(size / 16)
    found = {step * math.ceil(share * size / step) for share in _SHARES}
    return tuple(sorted({smallest, *found}))


def _beside(widths: tuple[int, ...], unit: int, least: int = 1) -> tuple[int, ...]:
    """The widths next to these, the smaller ones unless they are too small."""
    return tuple(w - unit if w - unit >= least else w + unit for w in widths)
