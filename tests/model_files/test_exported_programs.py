"""Programs of ``torch.export``."""

from pathlib import Path

import torch
from model_file_helpers import refused
from torch import nn


def test_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    what = refused(tmp_path / "model.pt2").what
    assert what == "The file is a program of torch.export; vibfx reads eager modules here."
