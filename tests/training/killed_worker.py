"""A small compression that may be killed at any moment; run by test_killed.py.

python killed_worker.py FOLDER [--resume]
"""

import functools
import sys
from pathlib import Path

import torch
from tasks import convnet

import vibfx
from vibfx import delivery, output_folder
from vibfx.training.checkpoint import Checkpoint


def main():
    """Compress, with a checkpoint nearly every step; what came out goes into a file."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    output_folder.Checkpoint = functools.partial(Checkpoint, every=0.02)
    delivery.latencies = lambda paths, module: [1.0 for _ in paths]
    result = vibfx.compress(
        convnet(classes=10),
        vibfx.load_data("digits", batch_size=64),
        target="flops=0.4",
        out=folder,
        epochs=12,
        lr=3e-3,
        resume="--resume" in sys.argv,
    )
    torch.save(result.module.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    main()
