"""Bilinear interpolation on the surfaces of all layers at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vibfx.latency.table import Surface

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A layer without a surface takes no time.
_NOTHING = Surface((0, 1), (0, 1), ((0.0, 0.0), (0.0, 0.0)))


class Surfaces:
    """Surfaces, stacked.

    Between the measured widths a time is bilinear; outside of them it goes on as inside, but never
    below 0.

    Args:
        surfaces: In the order in which they are numbered; None for one that is never asked for.
    """

    def __init__(self, surfaces: Sequence[Surface | None]) -> None:
        known = [_spanned(surface or _NOTHING) for surface in surfaces]
        self._axes = [_padded([s.first for s in known]), _padded([s.second for s in known])]
        self._last = [
            np.array([len(s.first) - 2 for s in known]),
            np.array([len(s.second) - 2 for s in known]),
        ]
        self._times = np.zeros((len(known), *(axis.shape[1] for axis in self._axes)))
        for row, surface in enumerate(known):
            self._times[row, : len(surface.first), : len(surface.second)] = surface.times

    def times(self, numbers: Integers, first: Floats, second: Floats) -> Floats:
        """Milliseconds on these surfaces for weights of these first two sizes."""
        corners, (u, v), _ = self._cell(numbers, first, second)
        low = corners[0] + u * (corners[2] - corners[0])
        high = corners[1] + u * (corners[3] - corners[1])
        return np.maximum(low + v * (high - low), 0.0)

    def slopes(self, numbers: Integers, first: Floats, second: Floats) -> tuple[Floats, Floats]:
        """Milliseconds that go with one of the first sizes, and with one of the second ones.

        Where noise made a wider layer faster, it is 0.
        """
        corners, (u, v), (width, height) = self._cell(numbers, first, second)
        along_first = (1 - v) * (corners[2] - corners[0]) + v * (corners[3] - corners[1])
        along_second = (1 - u) * (corners[1] - corners[0]) + u * (corners[3] - corners[2])
        return np.maximum(along_first / width, 0.0), np.maximum(along_second / height, 0.0)

    def _cell(
        self, numbers: Integers, first: Floats, second: Floats
    ) -> tuple[list[Floats], list[Floats], list[Floats]]:
        """The times at the corners around each point, where in between it is, and the sizes."""
        at, places, sizes = [], [], []
        for axes, last, widths in zip(self._axes, self._last, (first, second), strict=True):
            passed = (axes[numbers] <= widths[:, None]).sum(1)
            index = np.minimum(np.maximum(passed - 1, 0), last[numbers])
            low, high = axes[numbers, index], axes[numbers, index + 1]
            at.append(index)
            places.append((widths - low) / (high - low))
            sizes.append(high - low)
        i, j = at
        corners = [self._times[numbers, i + a, j + b] for a in (0, 1) for b in (0, 1)]
        return corners, places, sizes


def _spanned(surface: Surface) -> Surface:
    """The same with at least two widths an axis, so that there is always a cell."""
    first, second, times = surface.first, surface.second, surface.times
    if len(first) == 1:
        first, times = (first[0], first[0] + 1), times * 2
    if len(second) == 1:
        second, times = (second[0], second[0] + 1), tuple(row * 2 for row in times)
    return Surface(first, second, times)


def _padded(axes: Sequence[Sequence[int]]) -> Floats:
    """One row each, filled up with what no width reaches."""
    filled = np.full((len(axes), max(map(len, axes), default=2)), np.inf)
    for row, axis in enumerate(axes):
        filled[row, : len(axis)] = axis
    return filled
