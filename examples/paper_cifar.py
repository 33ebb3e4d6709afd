"""Tables 3 and 4 of the paper (Dai et al., arXiv 1802.10399): VGG on CIFAR-10 and CIFAR-100.

    cd examples
    python paper_cifar.py cifar10-2 cifar10:DIR

A protocol is a network and how it is trained; see ``PROTOCOLS``. The network is trained, compressed
to what the paper has left, and its final architecture trained again from new weights for as many
epochs: the control. Prints the paper's row beside ours. By default that is work for a GPU. What is
done is kept in a folder: the same command again goes on where it was broken off.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from cifar_networks import vgg
from from_scratch import from_scratch
from torch import fx, nn

import vibfx
from vibfx.data import Data
from vibfx.training import evaluate
from vibfx.training.checkpoint import Checkpoint

FOUR, THREE = (2, 2, 4, 4, 4), (2, 2, 3, 3, 3)


@dataclass(frozen=True)
class Protocol:
    """A row of the paper: the network, its training, and what is left in percent and million FLOPs.

    Attributes:
        convs, hidden, classes: The network; see ``vgg``.
        augment: Whether training images are shifted and mirrored.
        r_w, flops, r_n, error, tuned: The paper's figures; the last is the error when fine-tuned.
    """

    convs: tuple[int, ...]
    hidden: int
    classes: int
    augment: bool
    r_w: float
    flops: float
    r_n: float
    error: float
    tuned: float


PROTOCOLS = {
    "cifar10-1": Protocol(THREE, 2, 10, False, 5.30, 70.63, 49.57, 8.8, 8.5),
    "cifar10-2": Protocol(THREE, 1, 10, True, 5.45, 86.82, 57.86, 6.5, 6.1),
    "cifar10-3": Protocol(FOUR, 0, 10, True, 5.79, 116.0, 59.60, 6.2, 5.8),
    "cifar100-1": Protocol(THREE, 2, 100, False, 22.75, 133.6, 59.80, 37.6, 37.4),
    "cifar100-2": Protocol(FOUR, 0, 100, True, 15.08, 203.1, 73.80, 25.9, 25.7),
}
HEAD = """\
| Protocol | | Error before % | r_W % | MFLOP | r_N % | Error % | from scratch | Seconds |
|---|---|--:|--:|--:|--:|--:|--:|--:|"""


def main() -> None:
    """The paper's row, then ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("data", help="cifar10:DIR, cifar100:DIR, or a FILE.npz of it")
    parser.add_argument("--pretraining", type=int, default=200, help="epochs")
    parser.add_argument("--epochs", type=int, default=200, help="of the compression, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to keep it; by default out/PROTOCOL")
    options = parser.parse_args()
    row, out = PROTOCOLS[options.protocol], options.out or Path("out", options.protocol)
    left = f"{row.r_w} | {row.flops} | {row.r_n} | {row.error} ({row.tuned} fine-tuned)"
    print(f"{HEAD}\n| {options.protocol} | paper | | {left} | | |", flush=True)
    torch.manual_seed(options.seed)
    data = vibfx.load_data(options.data, seed=options.seed, augment=row.augment)
    model: nn.Module = vgg(row.convs, row.hidden, row.classes)
    graph = vibfx.trace(model.eval(), next(iter(data.test))[0][:2])
    train(graph, data, options.pretraining, options.seed, out / "pretraining.pt")
    model.load_state_dict(graph.state_dict())
    folder = out / f"compressed-{options.epochs}"
    if not (folder / "report.json").exists() or (folder / "checkpoint").exists():
        share = 1e6 / vibfx.measure(graph).flops
        target = f"flops={row.flops * share:.4f},params={row.r_w / 100:.4f}"
        how = {"target": target, "epochs": options.epochs, "seed": options.seed}
        stop_if(vibfx.compress(model, data, **how, out=folder, resume=True).report.interrupted)
    report = json.loads((folder / "report.json").read_text())
    control = from_scratch(vibfx.load(folder), options.seed)
    train(control, data, options.epochs, options.seed, out / f"control-{options.epochs}.pt")
    scratch = evaluate(control, data.test).accuracy or 0.0
    accuracies = [report[side]["score"]["accuracy"] for side in ("before", "after")] + [scratch]
    before, after, scratch = (100 * (1 - accuracy) for accuracy in accuracies)
    seconds = sum(phase["seconds"] for phase in report["phases"])
    print(
        f"| {options.protocol} | ours | {before:.2f} | {100 * report['shares']['r_w']:.2f} "
        f"| {report['after']['flops'] / 1e6:.2f} | {100 * report['shares']['r_n']:.2f} "
        f"| {after:.2f} | {scratch:.2f} | {seconds:.0f} |"
    )


def train(graph: fx.GraphModule, data: Data, epochs: int, seed: int, kept: Path) -> None:
    """Train a graph in place; what a file keeps of that already is not done again."""
    checkpoint = Checkpoint(kept, {"epochs": str(epochs), "seed": str(seed), "data": data.name})
    done = vibfx.fine_tune(graph, data.train, epochs=epochs, seed=seed, checkpoint=checkpoint)
    stop_if(done.interrupted)


def stop_if(interrupted: bool) -> None:
    """End the script where training was broken off by Ctrl-C."""
    if interrupted:
        raise SystemExit("Broken off: the same command goes on from here.")


if __name__ == "__main__":
    main()
