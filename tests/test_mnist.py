"""Real networks on MNIST, trained, saved and compressed as a user does it. Marked slow: minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("VIBFX_DATA" not in os.environ, reason="VIBFX_DATA names no data folder"),
]


def test_lenet5(tmp_path):
    report = compressed("lenet5", "flops=0.12,params=0.025", tmp_path)
    assert report["shares"]["r_w"] <= 0.03
    assert report["after"]["flops"] <= 300_000
    assert 1 - report["after"]["score"]["accuracy"] <= 0.012


@pytest.mark.parametrize("network", ["residual", "residual-projection"])
def test_residual_network_at_half_its_flops(network, tmp_path):
    report = compressed(network, "flops=0.5", tmp_path)
    assert report["shares"]["flops"] <= 0.5
    assert report["before"]["score"]["accuracy"] - report["after"]["score"]["accuracy"] <= 0.003
    assert report["equivalence_error"] < 1e-9
    assert report["parity"] < 1e-4


def compressed(network, target, folder):
    data, file, out = f"mnist:{os.environ['VIBFX_DATA']}", folder / "model.pt", folder / "out"
    run("train_mnist.py", network, data, file)
    run(
        *("-m", "vibfx", "compress", file, "--data", data, "--target", target),
        *("--out", out, "--trust", "mnist_networks"),
    )
    return json.loads((out / "report.json").read_text())


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, cwd=EXAMPLES, env=environment, check=True)
