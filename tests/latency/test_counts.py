"""How many indices of a dimension are left."""

import numpy as np

from vibfx.coupling import STAYS
from vibfx.latency.counts import Counts


def test_indices_are_counted_by_their_units():
    counts = Counts(3)
    rows = [counts.row(np.array(units)) for units in ([0, 1, 2], [0, 0, 2, STAYS], [STAYS] * 5)]
    assert rows == [1, 2, 3]
    assert counts.row(np.array([0, 1, 2])) == 1
    assert counts.of(np.ones(3, dtype=bool)).tolist() == [1, 3, 4, 5]
    assert counts.of(np.array([False, True, True])).tolist() == [1, 2, 2, 5]


def test_worth_goes_to_the_units_of_the_indices():
    counts = Counts(3)
    counts.row(np.array([0, 0, 2, STAYS]))
    assert counts.to_units(np.array([100.0, 1.5])).tolist() == [3.0, 0.0, 1.5]
    counts.row(np.array([1, 2]))
    assert counts.to_units(np.array([0.0, 1.0, 10.0])).tolist() == [2.0, 10.0, 11.0]
