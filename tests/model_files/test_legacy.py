"""The format from before torch 1.6: weights are read from it, and nothing else."""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_file_helpers import Reduced, lenet, refused, shell_attack
from torch import Tensor

from vibfx.model_files import load_model
from vibfx.model_files.legacy import is_legacy

HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
MACHINE = pickle.dumps({"little_endian": True}, 2)
ARCH = "model_file_helpers:lenet"


def content(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def written(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def by_hand(pickled: bytes, keys: bytes, storages: bytes = b"", machine: bytes = MACHINE) -> bytes:
    return HEAD + machine + pickled + keys + storages


def test_how_it_begins() -> None:
    assert is_legacy(content({}))
    assert not is_legacy(HEAD[:-1])
    assert not is_legacy(pickle.dumps([1]))


def test_tensors_that_share_numbers(tmp_path: Path) -> None:
    weights = lenet().state_dict()
    weights["1.bias"] = weights["1.weight"][:4]
    weights["0.weight"] = weights["0.weight"].transpose(2, 3)
    loaded = load_model(written(content(weights), tmp_path / "model.th"), arch=ARCH).state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_shell_command_is_not_run(tmp_path: Path) -> None:
    for value in (shell_attack(tmp_path), {"state_dict": {"weight": shell_attack(tmp_path)}}):
        refused(written(content(value), tmp_path / "model.th"), arch=ARCH)
        # Trust is for archives: what stands here may be a class with its source.
        refused(written(content(value), tmp_path / "model.th"), arch=ARCH, trust=["posix"])


def test_a_shell_command_in_any_other_pickle_is_not_run(tmp_path: Path) -> None:
    attack = pickle.dumps(shell_attack(tmp_path), 2)
    whole, empty = pickle.dumps({}, 2), pickle.dumps([], 2)
    for found in (by_hand(whole, empty, machine=attack), by_hand(whole, attack), attack):
        refused(written(found, tmp_path / "model.th"), arch=ARCH)


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    what = refused(written(content(lenet()), tmp_path / "model.th")).what
    assert what.startswith("The file is a plain pickle or from before torch 1.6")


@pytest.mark.parametrize("function", [torch.zeros, torch.Tensor, bytearray])
def test_memory_is_not_asked_for(function: Callable[..., object], tmp_path: Path) -> None:
    found = content({"weight": Reduced(function, (10**15,))})
    refused(written(found, tmp_path / "model.th"))


def test_a_tensor_is_not_created_empty(tmp_path: Path) -> None:
    # It would get its storage and its shape from its state.
    found = by_hand(b"\x80\x02ctorch\nTensor\n)\x81}b.", pickle.dumps([], 2))
    what = refused(written(found, tmp_path / "model.th")).what
    assert what.startswith("The file is a plain pickle")


def replaced(old: bytes, new: bytes, value: object) -> bytes:
    found = content(value)
    assert found.count(old) == 1
    return found.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        # The shape (7,) becomes (77,), the number of numbers 7 of the storage 9.
        (b"K\x07\x85", b"K\x4d\x85", "77 numbers, beyond the 7 that are there"),
        (b"K\x07Nt", b"K\x09Nt", "a storage in it has another length"),
        (struct.pack("<q", 7), struct.pack("<q", 2**40), "a storage in it has another length"),
        (struct.pack("<q", 7), struct.pack("<q", -7), "a storage in it has another length"),
        (b"FloatStorage", b"WildlStorage", "asks for a torch.WildlStorage"),
        (b"FloatStorage", b"FloatStorag\xe9", ""),
    ],
)
def test_sizes_that_contradict_each_other(
    old: bytes, new: bytes, reason: str, tmp_path: Path
) -> None:
    found = replaced(old, new, {"weight": torch.zeros(7)})
    assert reason in refused(written(found, tmp_path / "model.th")).what


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (pickle.dumps([], 2), "is not that of its pickle"),
        (pickle.dumps(["0", "0"], 2), "is malformed"),
        (pickle.dumps(["1"], 2), "is not that of its pickle"),
        (pickle.dumps("0", 2), "is malformed"),
        (pickle.dumps(("0",), 2), "is malformed"),
        (b"\x80\x02", "is malformed"),
        (b"", "is malformed"),
    ],
)
def test_another_list_of_storages(keys: bytes, reason: str, tmp_path: Path) -> None:
    found = content({"weight": torch.zeros(7)})
    start = found.rindex(b"\x80\x02]")
    listed = found[start : found.index(b".", start) + 1]
    key = pickle.loads(listed)[0].encode()
    keys = keys.replace(b"\x01\x00\x00\x000", struct.pack("<I", len(key)) + key)
    what = refused(written(found.replace(listed, keys), tmp_path / "model.th")).what
    assert reason in what


@pytest.mark.parametrize("place", [HEAD, b""])
def test_a_string_that_is_said_to_be_endless(place: bytes, tmp_path: Path) -> None:
    endless = b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7f"
    found = HEAD + endless if place else HEAD + MACHINE + endless
    assert "its pickle is malformed" in refused(written(found, tmp_path / "model.th")).what


@pytest.mark.parametrize(("more", "reason"), [(-1, "ends before its last"), (1, "goes on behind")])
def test_another_length(more: int, reason: str, tmp_path: Path) -> None:
    found = content({"weight": torch.zeros(7)})
    found = found + b"\x00" if more > 0 else found[:more]
    assert reason in refused(written(found, tmp_path / "model.th")).what


def test_a_state_dict_of_parameters(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {
        **dict(lenet().named_parameters()),
        **dict(lenet().named_buffers()),
    }
    loaded = load_model(written(content(weights), tmp_path / "model.th"), arch=ARCH).state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
