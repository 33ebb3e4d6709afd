"""A program of ``torch.export`` to read, or to damage."""

import shutil
from pathlib import Path

import pytest
from model_file_helpers import program


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small program: it is to stay as it is."""
    return program(tmp_path_factory.mktemp("whole") / "model.pt2")


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(whole, tmp_path / "model.pt2"))
