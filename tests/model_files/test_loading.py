"""What ``load_model`` reads, and what it says of files that hold no model or are damaged."""

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision
from model_file_helpers import (
    archive,
    damaged,
    lenet,
    refused,
    saved,
    shell_attack,
    small_model,
    survives,
)
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files import load_model

# --- what is read -------------------------------------------------------------------------------


def test_a_sequential_lenet_is_read_back_in_eval_mode(tmp_path: Path) -> None:
    model = lenet().train()
    loaded = load_model(str(saved(model, tmp_path / "model.pt")))
    images = torch.randn(2, 1, 28, 28)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1"])
def test_a_torchvision_model_is_read_back(name: str, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    loaded = load_model(saved(model, tmp_path / "model.pt"))
    images = torch.randn(1, 3, 64, 64)
    assert type(loaded) is type(model)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, num_layers=2),
        nn.MultiheadAttention(4, 2),
        nn.ModuleDict({"a": nn.GELU(), "b": nn.GroupNorm(2, 4)}),
        nn.ParameterList([torch.ones(2)]),
        nn.Embedding(3, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_a_state_of_their_own_are_read_back(layer: nn.Module, tmp_path: Path) -> None:
    loaded = load_model(saved(layer, tmp_path / "model.pt"))
    assert str(loaded) == str(layer)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_plain_data_in_attributes_is_read_back(tmp_path: Path) -> None:
    model: Any = nn.Identity()
    data = {"z": 1j, "kind": torch.float16, "on": torch.device("cpu"), "size": torch.Size([2, 3])}
    model.notes = {**data, "raw": b"\x00\xff", "long": 10**30, "set": {1, 2}}
    model.weights = nn.Linear(2, 2).state_dict()
    loaded: Any = load_model(saved(model, tmp_path / "model.pt"))
    assert loaded.notes == model.notes
    assert loaded.weights._metadata == model.weights._metadata


def test_parameters_and_buffers_with_attributes_are_read_back(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.decay = 0.5  # type: ignore[attr-defined]
    model.count = nn.Buffer(torch.ones(1))
    loaded: Any = load_model(saved(model, tmp_path / "model.pt"))
    assert loaded.weight.decay == 0.5
    assert dict(loaded.named_buffers()).keys() == {"count"}


def test_data_parallel_is_unwrapped(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.DataParallel(nn.Linear(2, 3)))
    loaded = load_model(saved(model, tmp_path / "model.pt"))
    assert type(loaded) is nn.Linear


def test_a_data_parallel_around_nothing(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.ReLU())
    model._modules["module"] = None
    assert refused(saved(model, tmp_path / "model.pt")).what.endswith("wraps no module.")


def test_a_model_that_contains_itself(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU())
    model._modules["1"] = model
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == "The model contains itself, or is nested too deeply to be used."


def test_what_the_process_allows_elsewhere_stays_allowed(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([nn.Linear])
    try:
        load_model(saved(lenet(), tmp_path / "model.pt"))
        assert set(torch.serialization.get_safe_globals()) == {*before, nn.Linear}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# --- what is no model ---------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "model.pt").what == "The model file does not exist."


def test_a_folder_that_vibfx_did_not_write(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as error:
        load_model(tmp_path)
    assert error.value.hint == "Pass a folder that vibfx wrote."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    what = refused(tmp_path / "model.pt").what
    assert what == "The path names a device, not a model file."


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = saved(lenet(), tmp_path / "model.pt")
    # A mode of 0 would not keep the superuser out.
    monkeypatch.setattr(Path, "open", denied)
    assert refused(path).what == "The model file cannot be read: Permission denied."


PLAIN = "The file is a plain pickle or from before torch 1.6, and cannot be read safely."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "The model file is empty."),
        (b"conv1: 3x3\n", "The file is not a model that torch.save wrote."),
        (random.Random(0).randbytes(999), "The file is not a model that torch.save wrote."),
        (pickle.dumps([1, 2]), PLAIN),
    ],
    ids=["empty", "text", "random", "pickle"],
)
def test_a_file_of_another_kind(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert refused(tmp_path / "model.pt").what == what


def test_the_legacy_format(tmp_path: Path) -> None:
    torch.save(lenet(), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert refused(tmp_path / "model.pt").what == PLAIN


def test_another_zip_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
        file.writestr("readme.txt", "no model")
    what = refused(tmp_path / "model.pt").what
    assert what == "The file is a zip archive that torch.save did not write."


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_state_dict(key: str | None, tmp_path: Path) -> None:
    weights = lenet().state_dict()
    value = weights if key is None else {key: weights, "epoch": 3}
    error = refused(saved(value, tmp_path / "model.pt"))
    assert error.what == "The file holds weights without the model."
    assert error.hint is not None
    assert "--arch torchvision:resnet18" in error.hint
    assert "save the whole module with torch.save(model, path)" in error.hint


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.ones(2), "Tensor"), ([nn.ReLU()], "list"), ({"epoch": 3}, "dict"), (None, "NoneType")],
)
def test_an_object_that_is_no_module(value: object, kind: str, tmp_path: Path) -> None:
    what = refused(saved(value, tmp_path / "model.pt")).what
    assert what == f"The file holds an object of type {kind}, not a module."


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt").what == "The file is a TorchScript program."


def test_an_onnx_model(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    what = refused(tmp_path / "model.onnx").what
    assert what == "The file is an ONNX model, which is already exported."


@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".safetensors"])
def test_plain_and_legacy_pickles_are_not_opened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(shell_attack(tmp_path)))
    refused(path)
    torch.save(shell_attack(tmp_path), path, _use_new_zipfile_serialization=False)
    refused(path)


def test_a_module_without_the_attributes_it_needs(tmp_path: Path) -> None:
    # An LSTM reads its own _all_weights while it is restored.
    path = archive(b"\x80\x02ctorch.nn.modules.rnn\nLSTM\n)\x81}b.", tmp_path / "model.pt")
    what = refused(path).what
    assert what.startswith(f"The file does not fit the installed torch {torch.__version__}")
    assert "_all_weights" in what


# --- damage -------------------------------------------------------------------------------------


def with_flipped_bit(path: Path, record: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path) as file, file.open(record):
        # Opening the record leaves the file at its first byte.
        start = file.fp.tell() if file.fp else 0
    content = bytearray(path.read_bytes())
    content[start + record.file_size // 2] ^= 4
    changed = path.with_name("changed.pt")
    changed.write_bytes(content)
    return changed


def test_a_flipped_bit_in_any_record_is_found(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
    assert sum("/data/" in record.filename for record in records) == 9
    for record in records:
        error = refused(with_flipped_bit(path, record))
        name = record.filename.removeprefix("model/")
        assert error.what == (
            f"The model file is damaged: its record {name} does not match its checksum."
        )


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(lenet(), tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert isinstance(load_model(path), nn.Sequential)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", bytes(10**6))
    what = refused(tmp_path / "model.pt").what
    assert "its records are larger than the file" in what


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[:-100])
    what = refused(path).what
    assert what.startswith("The model file is damaged or was not written by torch.save: its zip")


def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    model = small_model()
    content = saved(model, tmp_path / "whole.pt").read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        (tmp_path / "model.pt").write_bytes(damaged(content, chance))
        loaded = survives(tmp_path / "model.pt")
        # What no checksum covers is padding and dates.
        if loaded is not None:
            assert str(loaded) == str(model)
            for name, tensor in model.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor)
