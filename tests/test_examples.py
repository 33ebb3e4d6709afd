"""The examples that train on the digits run from end to end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NEEDS = {
    "passes_by_hand": "sklearn",
    "train_with_lightning": "lightning",
    "train_with_timm": "timm",
}


@pytest.mark.parametrize("name", NEEDS)
def test_it_ends_with_a_smaller_network_that_is_proved_equal(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "proved equal: Equivalence(error=" in done.stdout
