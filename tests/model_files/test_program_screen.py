"""What the description of a program may say; each attack would leave a mark, and none does."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import described, refused

import vibfx
from vibfx.model_files import load_model


def touch(path: Path) -> str:
    return f"__import__('pathlib').Path({str(path.with_name('mark'))!r}).touch()"


def graph(description: Any) -> Any:
    return description["graph_module"]["graph"]


def signature(description: Any) -> Any:
    return description["graph_module"]["module_call_graph"][0]["signature"]


def renamed(description: Any, old: str, new: str) -> Any:
    text = json.dumps(description).replace(json.dumps(old), json.dumps(new))
    description.clear()
    description.update(json.loads(text))


# --- what would run, if torch got to see it -----------------------------------------------------


def with_size(description: Any, text: str) -> None:
    graph(description)["tensor_values"]["x"]["sizes"][0] = {
        "as_expr": {"expr_str": text, "hint": {"as_int": 2}}
    }


def with_input(description: Any, text: str) -> None:
    renamed(description, "x", f"x=({text})")


def with_argument(description: Any, text: str) -> None:
    signature(description)["forward_arg_names"] = [f"x=({text})"]


SOURCES = [with_size, with_input, with_argument]


@pytest.mark.parametrize("attack", [with_size, with_input])
def test_the_attacks_work_on_torch_itself(attack: Any, path: Path) -> None:
    described(path, lambda found: attack(found, touch(path)))
    with contextlib.suppress(Exception):  # what it makes of the result does not matter
        torch.export.load(path).module(check_guards=False)
    assert path.with_name("mark").exists()


@pytest.mark.parametrize("attack", SOURCES)
def test_source_is_not_run(attack: Any, path: Path) -> None:
    refused(described(path, lambda found: attack(found, touch(path))))


def test_guards_are_not_run(path: Path) -> None:
    described(path, lambda found: found.update(guards_code=[touch(path), "x ="]))
    model = load_model(path)
    vibfx.trace(model, torch.zeros(2, 3, 8, 8))
    model(torch.zeros(2, 3, 8, 8))
    assert not path.with_name("mark").exists()


NODE = "graph_module.graph.nodes.0"


def put(description: Any, place: str, value: Any) -> None:
    *way, last = place.split(".")
    for step in way:
        description = description[int(step) if isinstance(description, list) else step]
    description[int(last) if isinstance(description, list) else last] = value


LEAF = {"type": None, "context": None, "children_spec": []}


def tree(kind: str, context: Any) -> str:
    dumped = json.dumps(context)
    inner = {"type": kind, "context": dumped, "children_spec": [LEAF]}
    empty = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    args = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
    both = {"type": "builtins.tuple", "context": "null", "children_spec": [args, empty]}
    return json.dumps([1, both])


IN_SPEC = "graph_module.module_call_graph.0.signature.in_spec"


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        (f"{NODE}.name", "a; import os", "its name is 'a; import os'"),
        (f"{NODE}.name", "a\n", "its name is"),
        (f"{NODE}.inputs.0.name", "x=1, y", "its name is"),
        (f"{NODE}.target", "torch.hub.load", "torch.hub.load"),
        (f"{NODE}.target", "torch.ops.aten.set_.source_Tensor", "not known to be harmless"),
        (f"{NODE}.target", "torch.ops.aten.from_file.default", "not known to be harmless"),
        (f"{NODE}.target", "_operator.methodcaller", "is no op"),
        (f"{NODE}.target", "math.exp", "is no op"),
        (f"{NODE}.target", "#namespace:op", "is no op"),
        (f"{NODE}.inputs.0.arg", {"as_operator": "torch.load"}, "is no op"),
        (f"{NODE}.inputs.0.arg", {"as_custom_obj": {"name": "a", "class_fqn": "b"}}, "class_fqn"),
        (f"{NODE}.inputs.0.arg", {"as_device": {"type": "cuda", "index": 0}}, "its type is 'cuda'"),
        (f"{NODE}.inputs.0.arg", {"as_string_to_argument": {"a b": 1}}, "is called 'a b'"),
        (f"{NODE}.inputs.0.arg", {"as_int": 2**63}, "its as_int is"),
        (f"{NODE}.inputs.0.arg", {"as_float": "1e9"}, "its as_float is"),
        (f"{NODE}.metadata", {"source_fn_stack": "a,torch.load"}, "its source_fn_stack"),
        ("graph_module.graph.custom_obj_values", {"a": {}}, "holds objects of classes"),
        ("graph_module.treespec_namedtuple_fields", {"a": {"field_names": ["b"]}}, "field_names"),
        ("graph_module.signature.input_specs.0.parameter.parameter_name", "forward", "its param"),
        ("graph_module.signature.input_specs.0.parameter.parameter_name", "a.__class__", "its p"),
        ("range_constraints", {"u99999999999": {"min_val": 0, "max_val": 1}}, "is called"),
        (IN_SPEC, "[1, 2]", "nesting of its inputs or results cannot be read"),
        (IN_SPEC, "[" * 9999, "nesting of its inputs or results cannot be read"),
        (
            IN_SPEC,
            tree("collections.defaultdict", {"default_factory_module": "os"}),
            "takes or ret",
        ),
        (IN_SPEC, tree("builtins.dict", [{"__enum__": True, "fqn": "os:path"}]), "cannot be read"),
        (IN_SPEC, tree("my.Dataclass", None), "The program takes or returns a my.Dataclass."),
        ("unheard_of", "anything", "its unheard_of is 'anything'"),
        ("unheard of", 1, "is called 'unheard of'"),
    ],
)
def test_what_is_not_known_to_be_harmless(place: str, value: Any, part: str, path: Path) -> None:
    assert part in refused(described(path, lambda found: put(found, place, value))).what


def test_keyword_arguments_with_names_that_are_none(path: Path) -> None:
    def change(found: Any) -> None:
        spec = json.loads(signature(found)["in_spec"])
        named = {"type": "builtins.dict", "context": json.dumps([f"y=({touch(path)})"])}
        spec[1]["children_spec"][1] = {**named, "children_spec": [LEAF]}
        signature(found)["in_spec"] = json.dumps(spec)

    assert "have names that are none" in refused(described(path, change)).what


def test_nesting_without_end(path: Path) -> None:
    def deeper(found: Any) -> None:
        inner: Any = {}
        for _ in range(100):
            inner = {"a": inner}
        found["deep"] = inner

    assert "nested too deeply" in refused(described(path, deeper)).what
