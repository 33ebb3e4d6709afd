"""Tensors that a file declares over the numbers that it has."""

from typing import Any

import pytest

from vibfx.errors import ModelFileError
from vibfx.model_files.layouts import check_layout


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "length"),
    [
        (0, (2, 3), (3, 1), 6),
        (2, (2, 2), (1, 2), 6),
        (0, (), (), 1),
        (0, (0, 3), (3, 1), 0),
        (0, (1000, 3), (0, 1), 3),
    ],
)
def test_what_fits(offset: int, shape: Any, strides: Any, length: int) -> None:
    check_layout(offset, shape, strides, length)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "length", "part"),
    [
        (0, (2, 3), (3, 1), 5, "has 6 numbers, beyond the 5 that are there"),
        (1, (2, 3), (3, 1), 6, "beyond the 6"),
        (0, (2, 3), (4, 1), 6, "beyond the 6"),
        (0, (), (), 0, "beyond the 0"),
        (-1, (1,), (1,), 6, "that are none"),
        (0, (2, 3), (1,), 6, "that are none"),
        (0, (2,), (-1,), 6, "that are none"),
        (0, (True,), (1,), 6, "that are none"),
        (0, (None,), (1,), 6, "that are none"),
        (0, (2**70,), (0,), 6, "that are none"),
        (0, (2**13, 2**13), (0, 0), 6, "repeats its 6 numbers to 67,108,864"),
        (0, (0, 2**40), (1, 1), 6, "has the shape (0, 1099511627776)"),
    ],
)
def test_what_does_not(offset: Any, shape: Any, strides: Any, length: int, part: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_layout(offset, shape, strides, length)
    assert part in caught.value.what
