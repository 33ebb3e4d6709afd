"""Names of parameters."""

import pytest

from vibfx.model_files.names import is_identifier, is_path, is_quotable_path


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


def test_names_that_stay_within_quotes() -> None:
    assert all(map(is_quotable_path, ["weight", "mix.a-b c.weight", "é.0"]))
    assert not any(map(is_quotable_path, ["", "a..b", 'a"b', "a'b", "a\\b", "a\nb", "\x00"]))


def test_names_in_python() -> None:
    assert all(map(is_identifier, ["x", "_0", "conv2d_1"]))
    assert not any(map(is_identifier, ["", "1x", "a b", "class", "a.b", 3, None]))
