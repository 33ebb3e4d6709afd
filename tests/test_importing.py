"""A function of the user's by its name."""

import sys

import pytest

from vibfx.errors import InputError
from vibfx.importing import current_folder_importable, import_function


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_functions_of_a_test.py").write_text(
        "def loss(a, b):\n    return a + b\n\nx = 1"
    )
    yield "own_functions_of_a_test"
    sys.modules.pop("own_functions_of_a_test", None)


def test_a_function_in_the_current_folder(module):
    before = list(sys.path)
    assert import_function(f"{module}:loss")(1, 2) == 3
    assert sys.path == before


def test_a_function_of_an_installed_package():
    assert import_function("os.path:join")("a", "b") == "a/b"


@pytest.mark.parametrize("spec", ["no_such_module:loss", ":loss"])
def test_a_module_that_is_not_there(spec):
    with pytest.raises(InputError, match="the module cannot be imported"):
        import_function(spec)


@pytest.mark.parametrize("name", ["x", "nothing", ""])
def test_what_is_no_function(module, name):
    with pytest.raises(InputError, match=f"{module} has no function {name}"):
        import_function(f"{module}:{name}")


def test_the_current_folder_is_importable_no_longer_than_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with current_folder_importable():
        assert str(tmp_path) in sys.path
    assert str(tmp_path) not in sys.path
