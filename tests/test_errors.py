"""The tree of errors as it is drawn, and as it is."""

import inspect
import re

import pytest

from vibfx import errors
from vibfx.errors import InputError, VibfxError

LINE = re.compile(r"^(?P<indent>(?:│   |    )*)(?:[├└]── )?(?P<name>\w+Error)\s{2,}(?P<text>.+)$")


def drawn():
    """For each class in the docstring its parent and the exit code written there, if any."""
    found, path = {}, []
    for line in inspect.getdoc(errors).splitlines():
        # Four columns a level: the root of the drawing has no branch before it.
        if match := LINE.match(line.removeprefix("    ")):
            depth = len(line.removeprefix("    ")) - len(line.removeprefix("    ").lstrip("│├└─ "))
            path = path[: depth // 4]
            code = re.search(r"exit code (\d)", match["text"])
            found[match["name"]] = (path[-1] if path else None, int(code[1]) if code else None)
            path.append(match["name"])
    return found


def classes():
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }


def test_every_class_is_drawn_below_its_parent():
    parents = {name: value.__base__.__name__ for name, value in classes().items()}
    parents["VibfxError"] = None
    assert {name: parent for name, (parent, _) in drawn().items()} == parents
    assert len(parents) >= 13


def test_the_exit_codes_drawn_are_those_of_the_classes_and_of_all_below():
    tree = drawn()

    def code(name):
        parent, written = tree[name]
        return written if written is not None else code(parent)

    found = {name: value.exit_code for name, value in classes().items() if name != "VibfxError"}
    assert found == {name: code(name) for name in tree if name != "VibfxError"}
    assert set(found.values()) == {1, 2, 3}
    assert [name for name, number in found.items() if number == 3] == ["NothingRemovableError"]


def test_what_is_not_said_otherwise_is_a_fault_of_vibfx():
    assert VibfxError.exit_code == 1
    assert VibfxError.__base__ is Exception


@pytest.mark.parametrize("error", classes().values(), ids=classes())
def test_every_error_is_described(error):
    assert error.__doc__.strip().endswith(".") or error is VibfxError
    assert "Args:" in VibfxError.__doc__


def test_a_message_says_what_where_and_what_to_do():
    error = InputError("it is broken", where="net.pt", hint="Mend it.")
    assert (error.what, error.where, error.hint) == ("it is broken", "net.pt", "Mend it.")
    assert str(error) == "it is broken\n  at net.pt\n  Mend it."


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "broken"), ({"where": "x"}, "broken\n  at x"), ({"hint": "Stop."}, "broken\n  Stop.")],
)
def test_what_is_not_given_leaves_no_empty_line(options, message):
    error = VibfxError("broken", **options)
    assert str(error) == message
