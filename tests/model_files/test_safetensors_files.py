"""Weights in a format that holds nothing else."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import refused, shell_attack
from safetensors.torch import save_file
from torch import nn

from vibfx.model_files import load_model
from vibfx.model_files.safetensors_files import is_safetensors


def written(header: Any, path: Path, numbers: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    return path


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_how_it_begins() -> None:
    assert is_safetensors(struct.pack("<Q", 80) + b"{", ".bin")
    assert is_safetensors(b"", ".safetensors")
    assert not is_safetensors(b"PK\x03\x04 and so on", ".pt")


def test_it_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    arch = "torch.nn:Linear(in_features=3, out_features=2)"
    loaded: Any = load_model(tmp_path / "model.safetensors", arch=arch)
    assert torch.equal(loaded.weight, network.weight)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"\xff" * 40,
        b"[" * 10_000,
        {"x": 3},
        {"x": entry(shape=(5,))},
        {"x": entry(offsets=(0, 64))},
        {"x": entry(offsets=(8, 0))},
        {"x": entry(shape=(2**62, 4))},
        {"x": entry(shape=(-4,))},
        {"x": entry(dtype="F33")},
        {"x": entry(), "y": entry()},
        {"x": entry(shape=(0, 2**62), offsets=(0, 0))},
    ],
    ids=lambda header: str(header)[:40],
)
def test_what_contradicts_itself_is_refused(header: Any, tmp_path: Path) -> None:
    what = refused(written(header, tmp_path / "model.safetensors"), arch="torch.nn:ReLU").what
    assert what.startswith("The model file is damaged or was not written by safetensors")


def test_a_header_as_long_as_it_says(tmp_path: Path) -> None:
    for length in (2**63, 10**8 + 1, 0):
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" * 50)
        refused(tmp_path / "model.safetensors", arch="torch.nn:ReLU")


def test_a_pickle_of_that_name_is_not_run(tmp_path: Path) -> None:
    torch.save(shell_attack(tmp_path), tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", arch="torch.nn:ReLU")
