"""The memory that running a file takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from networks import traced
from torch import nn

from vibfx.export import export_onnx, runtime

SCRIPT = Path(runtime.__file__).with_name("peak_memory.py")


def peak(width, folder):
    module = traced(nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width)), (4,))
    path = export_onnx(module, folder / f"{width}.onnx").path
    np.savez(folder / "inputs.npz", input=torch.ones(1, 4).numpy())
    command = [sys.executable, str(SCRIPT), str(path), "1", runtime.CPU, folder / "inputs.npz"]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def test_a_larger_file_takes_as_much_more(tmp_path):
    small, large = peak(8, tmp_path), peak(3000, tmp_path)
    assert large - small > 3000**2 * 4
    assert large < 12 * 3000**2 * 4
