"""Decides from a program's description, before torch sees it, whether it describes a graph only.

``torch.export.save`` writes the graph as JSON. What torch makes of it, and what a file could do
with that (found by reading ``torch.export.pt2_archive`` and ``torch._export.serde``):

- Names of nodes, inputs, arguments and parameters become Python source, which is run.
- Sizes are expressions that sympy evaluates as Python.
- Operators are looked up by name, and called.
- The nesting of inputs and results names classes; their contexts may name modules to import.
- Guards are Python source. They are not run here: the graph is taken without its guards.
- Some numbers are counted up to, and sizes ask for memory.
- Objects of classes are unpickled. There are none in what is read here.

So every word of the description has to be of a kind that is known. The kind follows from the key
that it stands under, and what stands under any other key is refused.
"""

import json
import re
from typing import Any

from vibfx.errors import ModelFileError
from vibfx.model_files.expressions import check_expression
from vibfx.model_files.names import is_path
from vibfx.model_files.operators import operator_named
from vibfx.model_files.refusals import damaged
from vibfx.model_files.trust import Trust

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[\w.+@-]*", re.ASCII)
_SYMBOL = re.compile(r"(s|u|ps|zf|zuf)\d{1,6}")
_FLOATS = ("Infinity", "-Infinity", "NaN")

_NAMES = ("name", "as_name", "forward_arg_names", "user_input_name")
_PATHS = ("parameter_name", "buffer_name", "tensor_constant_name")
_OPERATORS = ("target", "as_operator")
_NUMBERS = ("as_float", "as_floats")
_TREES = ("in_spec", "out_spec")
_WORDS = ("fqn", "verifiers", "dialect", "torch_version")

# These are kept as they are: arguments, remarks on where a node comes from, and guards.
_FREE = (
    *("as_string", "as_strings", "guards_code"),
    *("stack_trace", "nn_module_stack", "torch_fn", "from_node", "custom"),
)

# How inputs and results may be nested: no class whose code would take part.
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_DEEPEST = 64


def check_program(described: Any, trust: Trust) -> None:
    """Checks the description of a program.

    Args:
        described: What its JSON says.
        trust: What operators it may call beyond those that are known to be harmless.

    Raises:
        ModelFileError: There is something in it that is not known to be harmless.
    """
    _check(described, "", trust, 0)


def _check(value: Any, key: str, trust: Trust, depth: int) -> None:
    if depth > _DEEPEST:
        raise _strange("it is nested too deeply")
    if isinstance(value, dict):
        _check_keys(value, key)
        for name, entry in value.items():
            _check(entry, name, trust, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, key, trust, depth + 1)
    elif isinstance(value, str):
        _check_word(value, key, trust)
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise _strange(f"its {key} is {str(value)[:20]}...")


def _check_keys(entries: dict[Any, Any], key: str) -> None:
    known = _SYMBOL if key == "range_constraints" else _IDENTIFIER
    for name in entries:
        if not known.fullmatch(name):
            raise _strange(f"something in it is called {name[:40]!r}")
    if key == "custom_obj_values" and entries:
        raise ModelFileError(
            "The program holds objects of classes, which only unpickling could rebuild.",
            hint="Export a module that computes with tensors alone.",
        )


def _check_word(value: str, key: str, trust: Trust) -> None:
    if key in _OPERATORS:
        operator_named(value, trust)
    elif key == "expr_str":
        check_expression(value)
    elif key in _TREES:
        _check_tree(value, is_input=key == "in_spec")
    elif key not in _FREE and not _fits(value, key):
        raise _strange(f"its {key} is {value[:40]!r}")


def _fits(value: str, key: str) -> bool:
    if key in _NAMES:
        # torch writes no name for an input that is a number.
        return not value or _IDENTIFIER.fullmatch(value) is not None
    if key in _PATHS:
        return is_path(value)
    if key in _WORDS:
        return _WORD.fullmatch(value) is not None
    if key in _NUMBERS:
        return value in _FLOATS
    return key == "type" and value == "cpu"


def _check_tree(text: str, *, is_input: bool) -> None:
    """Check how inputs or results are nested; an input's names become source."""
    try:
        version, tree = json.loads(text)
        _check_branch(tree, 0)
        names = json.loads(tree["children_spec"][1]["context"]) if is_input else []
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise _strange("the nesting of its inputs or results cannot be read") from error
    if version != 1 or not all(map(_IDENTIFIER.fullmatch, names)):
        raise _strange("its inputs have names that are none")


def _check_branch(tree: Any, depth: int) -> None:
    kind, context = tree["type"], json.loads(tree["context"] or "null")
    if depth > _DEEPEST:
        raise _strange("it is nested too deeply")
    if kind not in (None, *_CONTAINERS):
        raise ModelFileError(
            f"The program takes or returns a {str(kind)[:80]}.",
            hint="Export a module that takes and returns tensors, in tuples, lists or dicts.",
        )
    words = context if isinstance(context, list) else [context]
    if not all(isinstance(word, str | int | None) for word in words):
        raise _strange("the nesting of its inputs or results cannot be read")
    for branch in tree["children_spec"]:
        _check_branch(branch, depth + 1)


def _strange(reason: str) -> ModelFileError:
    return damaged(reason, "torch.export.save")
