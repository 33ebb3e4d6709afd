"""Tables 1 and 2 of the paper (Dai et al., arXiv 1802.10399): LeNet-300-100 and LeNet-5 on MNIST.

    cd examples
    python paper_mnist.py mnist:DIR --seeds 0 1 2

Each network is trained and compressed to what the paper has left; its final architecture is trained
again from new weights for as many epochs: the control. Prints the paper's row beside ours. Training
images are shifted by a pixel, which the paper does not say that it did.
"""

import argparse
import contextlib
import sys
import time
from dataclasses import dataclass
from typing import Literal

import torch
from from_scratch import from_scratch
from mnist_networks import NETWORKS
from train_mnist import train

import vibfx
from vibfx.training import evaluate


@dataclass(frozen=True)
class Row:
    """A row of the paper, and what to ask for to meet it.

    Attributes:
        widths: The layers that are left.
        r_w, flops, r_n, error: As the paper has them, in percent, FLOPs in thousands.
        target: What we ask for.
        gate_inputs: Whether the pixels are gated, as in the paper.
        weights: What the gates weigh beside each other.
        settle: Whether the gates' noise stays for a while; None: as the training error says.
        pretraining, epochs: How long the network is trained, and how long the compression takes.
        lr: The learning rate of the compression.
        distill: How much the network's own outputs before count, in place of the labels.
    """

    widths: str
    r_w: float
    flops: float
    r_n: float
    error: float
    target: str
    gate_inputs: bool
    weights: Literal["cost", "uniform"]
    settle: bool | None
    pretraining: int
    epochs: int
    lr: float
    distill: float


ROWS = {
    "lenet-300-100": Row(
        *("97-71-33", 3.59, 9.6, 16.98, 1.6, "params=0.0359"),
        gate_inputs=True,
        weights="uniform",
        settle=True,
        pretraining=30,
        epochs=100,
        lr=2e-3,
        distill=1.0,
    ),
    "lenet5": Row(
        *("", 0.83, 94, 15.55, 1.0, "flops=0.041,params=0.0083"),
        gate_inputs=False,
        weights="cost",
        settle=None,
        pretraining=4,
        epochs=40,
        lr=4e-3,
        distill=0.0,
    ),
}
HEAD = """\
| Network | | Left | r_W % | FLOPs | r_N % | Test error % | from scratch | Seconds |
|---|---|---|--:|--:|--:|--:|--:|--:|"""


def main() -> None:
    """A row of the paper, then one for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("--networks", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    options = parser.parse_args()
    print(HEAD)
    for name in options.networks:
        row = ROWS[name]
        paper = f"{row.r_w} | {row.flops:g} k | {row.r_n} | {row.error} | | |"
        print(f"| {name} | paper | {row.widths} | {paper}")
        for seed in options.seeds:
            print(f"| {name} | seed {seed} | {measured(name, row, seed, options.data)}", flush=True)


def measured(name: str, row: Row, seed: int, where: str) -> str:
    """Train, compress, and train the control; the cells of a row."""
    torch.manual_seed(seed)
    data = vibfx.load_data(where, seed=seed, augment=True)
    model = NETWORKS[name]()
    with contextlib.redirect_stdout(sys.stderr):  # the table alone goes to standard output
        train(model, data.train, row.pretraining)
    begin = time.perf_counter()
    result = vibfx.compress(
        model.eval(),
        data,
        target=row.target,
        gate_inputs=row.gate_inputs,
        distill=row.distill,
        weights=row.weights,
        settle=row.settle,
        epochs=row.epochs,
        lr=row.lr,
        seed=seed,
    )
    seconds = time.perf_counter() - begin
    control = from_scratch(result.module, seed)
    vibfx.fine_tune(control, data.train, epochs=row.epochs, lr=row.lr, seed=seed)
    report, error = result.report, 100 * (1 - (evaluate(control, data.test).accuracy or 0))
    widths = "-".join(str(len(group.kept)) for group in result.plan.groups)
    return (
        f"{widths} | {100 * report.shares.r_w:.2f} | {report.after.flops / 1e3:.1f} k "
        f"| {100 * report.shares.r_n:.2f} | {100 * (1 - report.after.score.accuracy):.2f} "
        f"| {error:.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
