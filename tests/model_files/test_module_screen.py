"""What is refused in a module that the screen of the pickle lets through."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import Reduced, archive, lenet, records_of, refused, saved
from torch import nn


@pytest.mark.parametrize("missing", ["_modules", "_parameters", "_buffers"])
def test_a_module_without_its_tables(missing: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU())
    del model[0].__dict__[missing]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith(f"a module of type ReLU has no usable {missing}.")


def test_a_table_that_holds_something_else(tmp_path: Path) -> None:
    model = nn.Sequential()
    model._modules["0"] = nn.ReLU  # type: ignore[assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith("a module of type Sequential has no usable _modules.")


# --- hooks --------------------------------------------------------------------------------------


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
def test_hooks_of_other_classes_are_refused(register: str, tmp_path: Path) -> None:
    model: Any = lenet()
    getattr(model[0], register)(Marker(tmp_path / "mark"))
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert "Marker" in what


TABLES = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("hook", [nn.Sequential, nn.Identity()], ids=["class", "module"])
def test_hooks_made_of_layers_are_refused(table: str, hook: object, tmp_path: Path) -> None:
    model: Any = lenet()
    setattr(model[0], table, OrderedDict({0: hook}))
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"The file gives Conv2d {table}, which would run along with it."


def test_hooks_in_a_module_outside_the_tree_are_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    hidden = nn.ReLU()
    hidden.register_forward_hook(nn.Identity())
    model.stages = [({"hidden": hidden},)]
    assert "ReLU _forward_hooks" in refused(saved(model, tmp_path / "model.pt")).what


def test_hooks_of_a_parameter_are_refused(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_parameter
    hooks = OrderedDict({0: nn.Identity()})
    model: Any = lenet()
    model.hidden = [Reduced(rebuild, (torch.ones(2), True, hooks))]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.startswith("The file gives Parameter _backward_hooks")


def test_hooks_set_as_an_attribute_of_a_parameter_are_refused(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_parameter_with_state
    state = {"_post_accumulate_grad_hooks": {0: nn.Identity}}
    model: Any = lenet()
    model.hidden = [Reduced(rebuild, (torch.ones(2), True, OrderedDict(), state))]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.startswith("The file gives Parameter _post_accumulate_grad_hooks")


# --- attributes in place of methods -------------------------------------------------------------


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
    assert what == f"The file replaces the method {name} of Conv2d."


def test_a_compiled_call_in_the_file_is_refused(tmp_path: Path) -> None:
    # torch.save leaves the attribute out, so that only a handmade file can hold it.
    records = records_of(saved(nn.ReLU(), tmp_path / "whole.pt"))
    pickled = records["data.pkl"].replace(
        b"X\x07\x00\x00\x00inplace", b"X\x13\x00\x00\x00_compiled_call_impl"
    )
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert what == "The file replaces the method _compiled_call_impl of ReLU."


def test_a_tensor_that_replaces_a_method_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.dim = nn.Identity  # type: ignore[method-assign, assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == "The file replaces the method dim of Parameter."


@pytest.mark.parametrize("name", ["items", "values"])
def test_a_dict_that_replaces_a_method_is_refused(name: str, tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.ReLU())
    entries = {name: nn.Identity}
    model.hidden = [Reduced(OrderedDict, (), entries)]
    model._modules = model.hidden[0]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"The file replaces the method {name} of OrderedDict."
