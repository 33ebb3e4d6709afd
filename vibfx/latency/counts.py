"""How many of a dimension's indices are left, for many dimensions at once."""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from vibfx.coupling import STAYS

Floats = npt.NDArray[np.float64]


class Counts:
    """A table of dimensions, each a list of the units of its indices.

    Row 0 is a dimension of one index that always stays.

    Args:
        units: How many units there are.
    """

    def __init__(self, units: int) -> None:
        self._units = units
        self._rows: dict[bytes, int] = {}
        self._dims: list[npt.NDArray[np.int64]] = []
        self._matrix: csr_array | None = None
        self.row(np.array([STAYS]))

    def row(self, units: npt.NDArray[np.int64]) -> int:
        """The number of a dimension whose indices belong to these units."""
        key = units.astype(np.int64).tobytes()
        if key not in self._rows:
            self._rows[key] = len(self._dims)
            # What stays counts as the entry behind the last unit, which is always alive.
            self._dims.append(np.where(units == STAYS, self._units, units))
            self._matrix = None
        return self._rows[key]

    def of(self, keep: npt.NDArray[np.bool_]) -> Floats:
        """For every dimension how many of its indices are left with these units."""
        return np.asarray(self._table() @ np.append(keep, True).astype(np.float64))

    def to_units(self, worth: Floats) -> Floats:
        """What an index of each dimension is worth, added up for every unit."""
        return np.asarray(self._table().T @ worth)[:-1]

    def _table(self) -> csr_array:
        if self._matrix is None:
            rows = np.repeat(np.arange(len(self._dims)), [dim.size for dim in self._dims])
            columns = np.concatenate(self._dims)
            shape = (len(self._dims), self._units + 1)
            self._matrix = csr_array((np.ones(rows.size), (rows, columns)), shape=shape)
            self._matrix.sum_duplicates()
        return self._matrix
