"""``kill -9`` at random moments: the run that is gone on with ends with the same weights."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vibfx import output_folder

WORKER = Path(__file__).with_name("killed_worker.py")
KILLS = 20
FILES = sorted(["log.jsonl", "weights.pt", *output_folder.FILES])

pytestmark = pytest.mark.slow


def start(folder, *options):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(WORKER.parents[1]),
    }
    return subprocess.Popen([sys.executable, str(WORKER), str(folder), *options], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nobody kills, and how long its training took."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    wait_for_training(folder)
    began = time.monotonic()
    assert process.wait() == 0
    return torch.load(folder / "weights.pt"), time.monotonic() - began


def wait_for_training(folder):
    while not (folder / "checkpoint").exists():
        time.sleep(0.005)


@pytest.mark.parametrize("number", range(KILLS))
def test_the_run_that_is_gone_on_with_ends_with_the_same_weights(whole, number, tmp_path):
    expected, seconds = whole
    process = start(tmp_path)
    wait_for_training(tmp_path)
    time.sleep(random.Random(number).uniform(0.0, seconds))
    process.kill()
    process.wait()
    if not (tmp_path / "weights.pt").exists():
        assert start(tmp_path, "--resume").wait() == 0
    found = torch.load(tmp_path / "weights.pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
