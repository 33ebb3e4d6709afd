"""What a model file's pickle may name and call, and that a hostile pickle leaves no mark."""

import builtins
import os
import pickle
import random
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import (
    Reduced,
    archive,
    damaged,
    lenet,
    records_of,
    refused,
    saved,
    shell_attack,
    small_model,
    survives,
)
from torch import nn

# --- what is refused and explained --------------------------------------------------------------


def test_a_graph_module(tmp_path: Path) -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    what = refused(saved(traced, tmp_path / "model.pt")).what
    assert what == "The file holds a torch.fx.GraphModule: Python source, which loading would run."


@pytest.mark.parametrize(
    ("named", "what"),
    [
        (b"torch.nn.parallel.distributed\nDistributedDataParallel", "DistributedDataParallel"),
        (b"torch._dynamo.eval_frame\nOptimizedModule", "torch.compile"),
    ],
)
def test_a_wrapper_that_cannot_be_read_back(named: bytes, what: str, tmp_path: Path) -> None:
    path = archive(b"\x80\x02c" + named + b"\n)\x81}b.", tmp_path / "model.pt")
    assert what in refused(path).what


def test_a_class_of_the_saving_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = type("Net", (nn.Linear,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Net", net, raising=False)
    error = refused(saved(net(2, 2), tmp_path / "model.pt"))
    assert error.what == "Net was defined in the script that saved the model."
    assert error.hint is not None
    assert "Move it into a module that can be imported" in error.hint


def test_another_pickle_protocol(tmp_path: Path) -> None:
    torch.save(lenet(), tmp_path / "model.pt", pickle_protocol=4)
    what = refused(tmp_path / "model.pt").what
    assert what == "The file was saved with pickle protocol 4, which cannot be read safely."


@pytest.mark.parametrize(
    "named", [b"torch.nn.modules.conv\nConv9d", b"torchvision.models.zebranet\nZebraNet"]
)
def test_a_class_that_this_version_does_not_have(named: bytes, tmp_path: Path) -> None:
    path = archive(b"\x80\x02c" + named + b"\n)\x81}b.", tmp_path / "model.pt")
    what = refused(path).what
    assert named.decode().replace("\n", ".") in what
    assert "which the installed torch" in what


# --- attacks ------------------------------------------------------------------------------------


def python_attack(folder: Path, function: Any) -> Reduced:
    mark = str(folder / "mark")
    return Reduced(function, (f"__import__('pathlib').Path({mark!r}).touch()",))


def test_the_attacks_work_on_an_ordinary_unpickler(tmp_path: Path) -> None:
    attacks = [python_attack(tmp_path, function) for function in (builtins.eval, builtins.exec)]
    for attack in (shell_attack(tmp_path), *attacks):
        torch.load(saved(attack, tmp_path / "model.pt"), weights_only=False)
        (tmp_path / "mark").unlink()


@pytest.mark.parametrize("trust", [(), ("posix", "nt")])
def test_a_shell_command_is_not_run(trust: tuple[str, ...], tmp_path: Path) -> None:
    path = saved(shell_attack(tmp_path), tmp_path / "model.pt")
    what = refused(path, trust=trust).what
    # Trust alone is not enough for these modules: torch blocks them whoever asks.
    assert f"{os.name}.system" in what


@pytest.mark.parametrize("function", [builtins.eval, builtins.exec])
def test_source_is_not_run(function: Any, tmp_path: Path) -> None:
    path = saved(python_attack(tmp_path, function), tmp_path / "model.pt")
    assert f"builtins.{function.__name__}" in refused(path).what


def test_an_attack_inside_a_model_is_not_run(tmp_path: Path) -> None:
    model: Any = lenet()
    model.notes = [{"deep": (shell_attack(tmp_path),)}]
    path = saved(model, tmp_path / "model.pt")
    assert f"{os.name}.system" in refused(path).what


def test_an_attack_inside_a_state_dict_is_not_run(tmp_path: Path) -> None:
    path = saved({"state_dict": {"weight": shell_attack(tmp_path)}}, tmp_path / "model.pt")
    refused(path)


def test_another_file_is_not_loaded(tmp_path: Path) -> None:
    inner = tmp_path / "inner.pkl"
    inner.write_bytes(pickle.dumps(shell_attack(tmp_path)))
    for function in (torch.load, torch.jit.load, torch.hub.load_state_dict_from_url):
        path = saved(Reduced(function, (str(inner),)), tmp_path / "model.pt")
        assert function.__name__ in refused(path).what


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_protocol_gets_an_attack_through(protocol: int, tmp_path: Path) -> None:
    torch.save(shell_attack(tmp_path), tmp_path / "model.pt", pickle_protocol=protocol)
    refused(tmp_path / "model.pt")


TRUE = b"X\x04\x00\x00\x00true"
POSIX_SYSTEM = b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system"


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"cposix\nsystem\n" + TRUE + b"\x85R.", "needs posix.system"),
        (b"\x80\x02cposix\nsystem\n" + TRUE + b"\x85\x81.", "needs posix.system"),
        (b"\x80\x02(cposix\nsystem\n" + TRUE + b"o.", "the instruction OBJ"),
        (b"\x80\x02(" + TRUE + b"iposix\nsystem\n.", "the instruction INST"),
        (b"\x80\x02" + POSIX_SYSTEM + b"\x93" + TRUE + b"\x85R.", "the instruction STACK_GLOBAL"),
        (b"\x80\x02ctorch\nnn.os.system\n" + TRUE + b"\x85R.", "needs torch.nn.os.system"),
        (b"\x80\x02K\x01K\x02\x86)R.", "calls something that is not a function"),
        (b"\x80\x02R.", "its pickle is malformed"),
        (b"\x80\x02}}b.", "changes an object that it did not just create"),
    ],
)
def test_a_handmade_pickle_is_refused(pickled: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(archive(pickled, tmp_path / "model.pt")).what


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("torch.nn.modules.module warnings.sys.exit", "does not have"),
        ("torch.nn.modules. Linear", "does not have"),
        ("torch.nn.modules.module torch", "beyond the layers"),
        ("torch.nn.modules.utils _pair", "beyond the layers"),
        ("torch.nn.modules_evil Linear", "beyond the layers"),
        ("torch.jit ScriptModule", "beyond the layers"),
        ("torch.nn.functional relu", "beyond the layers"),
        ("torchvision.io.image read_file", "beyond the layers"),
        ("torchvision.models._api get_model", "beyond the layers"),
        ("torchvision.models.feature_extraction DualGraphModule", "beyond the layers"),
    ],
)
def test_what_is_no_layer_is_refused(named: str, reason: str, tmp_path: Path) -> None:
    pickled = b"\x80\x02c" + named.replace(" ", "\n").encode() + b"\n)\x81}b."
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert f"needs {named.replace(' ', '.')}, " in what
    assert reason in what


def test_a_function_in_an_attribute_is_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    for function, name in ((os.system, "system"), (nn.functional.relu, "relu")):
        model.activation = function
        assert name in refused(saved(model, tmp_path / "model.pt")).what


def test_the_constructor_of_a_layer_is_not_called(tmp_path: Path) -> None:
    path = saved(Reduced(nn.Linear, (2, 2)), tmp_path / "model.pt")
    assert refused(path).what == "Loading the file would call torch.nn.modules.linear.Linear."


def test_a_layer_is_not_created_with_arguments(tmp_path: Path) -> None:
    pickled = b"\x80\x02ctorch.nn.modules.linear\nLinear\nK\x01\x85\x81}b."
    assert "would call" in refused(archive(pickled, tmp_path / "model.pt")).what


def test_a_tensor_rebuilder_does_not_call_a_layer(tmp_path: Path) -> None:
    rebuild = torch._tensor._rebuild_from_type_v2
    inner: Any = (nn.Linear, nn.Linear, (2, 2), {})
    path = saved(Reduced(rebuild, inner), tmp_path / "model.pt")
    assert "would call torch.nn.modules.linear.Linear" in refused(path).what
    path = saved(Reduced(rebuild, (rebuild, nn.Linear, inner, {})), tmp_path / "model.pt")
    assert "in a way that torch.save does not write" in refused(path).what


@pytest.mark.parametrize(
    ("rebuild", "arguments"),
    [
        (
            torch._utils._rebuild_parameter_with_state,
            (torch.ones(1), True, OrderedDict(), {"__setstate__": nn.Linear}),
        ),
        (
            torch._tensor._rebuild_from_type_v2,
            (
                torch._utils._rebuild_tensor_v2,
                torch.Tensor,
                (torch.ones(1).untyped_storage(), 0, (1,), (1,), False, OrderedDict()),
                {"set_": nn.Linear},
            ),
        ),
    ],
    ids=["parameter", "tensor"],
)
def test_a_tensor_that_has_its_attributes_is_not_restored(
    rebuild: Any, arguments: Any, tmp_path: Path
) -> None:
    # The attribute stands in for a method that the unpickler calls with the state.
    model: Any = nn.Identity()
    model.hidden = [Reduced(rebuild, arguments, (2, 2))]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert "changes an object that it did not just create" in what


def test_an_object_is_restored_once(tmp_path: Path) -> None:
    # The first round sets __setstate__ on the instance, which the second would call.
    pickled = (
        b"\x80\x02ctorch.nn.modules.activation\nReLU\n)\x81"
        b"}X\x0c\x00\x00\x00__setstate__ctorch.nn.modules.linear\nIdentity\nsb}b."
    )
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert "changes an object that it did not just create" in what


@pytest.mark.parametrize(
    ("layout", "part"),
    [
        ((0, (99,), (1,)), "has 99 numbers, beyond the 8 that are there"),
        ((7, (2,), (1,)), "beyond the 8 that are there"),
        ((0, (10**6, 10**6), (0, 0)), "repeats its 8 numbers to 1,000,000,000,000"),
        ((0, [2], (1,)), "in a way that torch.save does not write"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_tensor_lies_within_its_numbers(
    layout: Any, part: str, wrapped: bool, tmp_path: Path
) -> None:
    # Of more numbers than there are, torch makes room in memory, or reads what lies behind.
    rebuild = torch._utils._rebuild_tensor_v2
    arguments = (torch.ones(2).untyped_storage(), *layout, False, OrderedDict())
    value = Reduced(rebuild, arguments)
    if wrapped:
        value = Reduced(torch._tensor._rebuild_from_type_v2, (rebuild, torch.Tensor, arguments, {}))
    assert part in refused(saved({"weight": value}, tmp_path / "model.pt")).what


def test_a_tensor_is_not_created_empty(tmp_path: Path) -> None:
    # Its storage and its shape would come as its state.
    path = archive(b"\x80\x02ctorch\nTensor\n)\x81}b.", tmp_path / "model.pt")
    assert refused(path).what == "Loading the file would call torch.Tensor."


@pytest.mark.parametrize("function", [bytearray, torch.Tensor, torch.zeros])
def test_memory_is_not_asked_for(function: Any, tmp_path: Path) -> None:
    path = saved({"weight": Reduced(function, (10**15,))}, tmp_path / "model.pt")
    refused(path)


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("attacked", [False, True])
def test_a_damaged_pickle_is_refused_or_read(attacked: bool, tmp_path: Path) -> None:
    model = small_model()
    if attacked:
        model.attack = shell_attack(tmp_path)
    records = records_of(saved(model, tmp_path / "whole.pt"))
    chance = random.Random(7)
    read = 0
    for _ in range(200):
        # The checksums are right, so that the checks and the unpickler get to see the damage.
        path = archive(damaged(records["data.pkl"], chance), tmp_path / "model.pt", records)
        read += survives(path) is not None
    assert attacked or 0 < read < 200
