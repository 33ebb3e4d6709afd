"""Interpolation by hand."""

import numpy as np
import pytest

from vibfx.latency.surfaces import Surfaces
from vibfx.latency.table import Surface

PRODUCT = Surface((8, 16, 32), (4, 8), ((3.2, 6.4), (6.4, 12.8), (12.8, 25.6)))  # a b / 10
ROW = Surface((5,), (2, 4, 8), ((1.0, 3.0, 2.0),))
POINT = Surface((7,), (7,), ((4.0,),))
ALL = Surfaces([PRODUCT, ROW, POINT, None])


def at(number, first, second):
    arrays = np.array([number]), np.array([float(first)]), np.array([float(second)])
    slopes = ALL.slopes(*arrays)
    return ALL.times(*arrays)[0], slopes[0][0], slopes[1][0]


@pytest.mark.parametrize("widths", [(8, 4), (32, 8), (16, 6), (20, 5), (40, 10), (2, 3)])
def test_a_product_is_met_exactly_inside_and_outside(widths):
    first, second = widths
    expected = (first * second / 10, second / 10, first / 10)
    assert at(0, first, second) == pytest.approx(expected, abs=1e-12)


def test_a_width_that_cannot_change_has_no_slope():
    assert at(1, 5, 3) == pytest.approx((2.0, 0.0, 1.0))
    assert at(2, 7, 7) == (4.0, 0.0, 0.0)


def test_a_wider_layer_that_was_faster_is_no_reason_to_widen():
    assert at(1, 5, 6) == pytest.approx((2.5, 0.0, 0.0))


def test_no_time_is_below_0():
    assert at(1, 5, 0)[0] == 0.0


def test_without_a_surface_there_is_no_time():
    assert at(3, 10, 10) == (0.0, 0.0, 0.0)


def test_many_at_once():
    numbers = np.array([0, 1, 0])
    found = ALL.times(numbers, np.array([8.0, 5.0, 16.0]), np.array([4.0, 2.0, 8.0]))
    assert found == pytest.approx([3.2, 1.0, 12.8])
