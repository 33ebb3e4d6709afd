"""Names of parameters."""

import pytest

from vibfx.model_files.names import is_path


@pytest.mark.parametrize("name", ["weight", "layer1.0.conv_2.weight", "_cache", "0"])
def test_names_of_parameters(name: str) -> None:
    assert is_path(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a..b", "a b", "a-b", "é", "x = 1; y", "a\n"),
        *("a.__class__", "forward", "layer.__call__", "a._parameters", "training", "a.eval"),
    ],
)
def test_what_would_take_the_place_of_something_else(name: str) -> None:
    assert not is_path(name)
