"""What is refused in a module that the screen of the pickle lets through."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.model_file_helpers import Reduced, archive, lenet, records_of, refused, saved
from vibfx.model_files import load_model


@pytest.mark.parametrize("missing", ["_modules", "_parameters", "_buffers"])
def test_a_module_without_its_tables(missing: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU())
    del model[0].__dict__[missing]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith(f"a ReLU in it has no usable {missing}.")


def test_a_table_that_holds_something_else(tmp_path: Path) -> None:
    model = nn.Sequential()
    model._modules["0"] = nn.ReLU  # type: ignore[assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith("a Sequential in it has no usable _modules.")


# --- attacks: the module calls something when it is used ----------------------------------------


class Marker:
    """A hook that would leave a mark; of a class that no file may name."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, *args: Any) -> None:
        self.mark.touch()


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_hooks_of_other_classes_are_refused(register: str, tmp_path: Path, mark: Path) -> None:
    model: Any = lenet()
    getattr(model[0], register)(Marker(mark))
    what = refused_without_mark(saved(model, tmp_path / "model.pt"), mark)
    assert "Marker" in what


def test_a_function_in_an_attribute_is_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    for function, name in ((os.system, "system"), (nn.functional.relu, "relu")):
        model.activation = function
        assert name in refused(saved(model, tmp_path / "model.pt")).what


TABLES = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("hook", [nn.Sequential, nn.Identity()], ids=["class", "module"])
def test_hooks_made_of_layers_are_refused(table: str, hook: object, tmp_path: Path) -> None:
    model: Any = lenet()
    setattr(model[0], table, OrderedDict({0: hook}))
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"A Conv2d in the file has {table}, which would run along with it."


def test_hooks_in_a_module_outside_the_tree_are_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    hidden = nn.ReLU()
    hidden.register_forward_hook(nn.Identity())
    model.stages = [({"hidden": hidden},)]
    assert "has _forward_hooks" in refused(saved(model, tmp_path / "model.pt")).what


def test_hooks_of_a_parameter_are_refused(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_parameter
    hooks = OrderedDict({0: nn.Identity()})
    model: Any = lenet()
    model.hidden = [Reduced(rebuild, (torch.ones(2), True, hooks))]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.startswith("A Parameter in the file has _backward_hooks")


@pytest.mark.parametrize(
    "name", ["forward", "__call__", "_call_impl", "train", "named_modules", "state_dict"]
)
@pytest.mark.parametrize("value", [nn.Sequential, nn.Identity()], ids=["class", "module"])
def test_an_attribute_in_place_of_a_method_is_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    model: Any = lenet()
    model[0].__dict__[name] = value
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"A Conv2d in the file replaces its method {name}."


def test_a_compiled_call_in_the_file_is_refused(tmp_path: Path) -> None:
    # torch.save leaves the attribute out, so that only a handmade file can hold it.
    pickled = saved_pickle(nn.ReLU(), tmp_path).replace(
        b"X\x07\x00\x00\x00inplace", b"X\x13\x00\x00\x00_compiled_call_impl"
    )
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert what == "A ReLU in the file replaces its method _compiled_call_impl."


def test_a_tensor_that_replaces_a_method_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.dim = nn.Identity  # type: ignore[method-assign, assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == "A Parameter in the file replaces its method dim."


