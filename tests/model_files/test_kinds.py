"""Which format a file is in; what is no model is in test_loading."""

import io
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import save

from vibfx.errors import ModelFileError
from vibfx.model_files.kinds import Kind, kind_of


def saved(value: object, *, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix", "kind"),
    [
        (saved({}, new=True), ".pt", Kind.PICKLE),
        (saved({}, new=True), ".safetensors", Kind.PICKLE),
        (saved({}, new=False), ".th", Kind.LEGACY),
        (save({"x": torch.ones(1)}), ".safetensors", Kind.SAFETENSORS),
        (save({"x": torch.ones(1)}), ".pt", Kind.SAFETENSORS),
    ],
)
def test_kinds(content: bytes, suffix: str, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    with (tmp_path / "model").open("rb") as file:
        found, archive = kind_of(file, suffix)
        assert found is kind
        assert (archive is not None) == (kind is Kind.PICKLE)


def test_a_program_from_before_torch_2_8(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "model.pt2", "w") as file:
        file.writestr("version", "8.8")
        file.writestr("serialized_exported_program.json", "{}")
    with (tmp_path / "model.pt2").open("rb") as file, pytest.raises(ModelFileError) as caught:
        kind_of(file, ".pt2")
    assert caught.value.what == "The file is a program of torch.export from before torch 2.8."
