"""Values of options that several commands read."""

import pytest

from vibfx.cli.options import numbers, sizes
from vibfx.errors import InputError


@pytest.mark.parametrize(
    ("text", "shape"), [("3x224x224", (3, 224, 224)), ("10", (10,)), ("1X8x8", (1, 8, 8))]
)
def test_sizes(text, shape):
    assert sizes(text) == shape


@pytest.mark.parametrize("text", ["", "x", "3x", "3x0", "-3", "8by8", "3,8", "²"])
def test_no_sizes(text):
    with pytest.raises(InputError, match="is no shape") as caught:
        sizes(text)
    assert "3x224x224" in caught.value.hint


def test_numbers():
    assert numbers("0.5,1,2e-1", "--mean") == (0.5, 1.0, 0.2)
    with pytest.raises(InputError, match="--std 'half' is no list of numbers"):
        numbers("half", "--std")
