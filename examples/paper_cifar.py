"""Tables 3 and 4 of the paper (Dai et al., arXiv 1802.10399): VGG on CIFAR-10 and CIFAR-100.

    cd examples
    python paper_cifar.py cifar10-2 cifar10:DIR

A protocol is a network and how it is trained; see ``PROTOCOLS``. The network is trained, compressed
to what the paper has left, and its final architecture trained again from new weights for as many
epochs: the control. Prints the paper's row beside ours. By default that is work for a GPU.
"""

import argparse
import time
from dataclasses import dataclass

import torch
from cifar_networks import vgg
from from_scratch import from_scratch
from torch import nn

import vibfx
from vibfx.training import evaluate

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
    options = parser.parse_args()
    row = PROTOCOLS[options.protocol]
    left = f"{row.r_w} | {row.flops} | {row.r_n} | {row.error} ({row.tuned} fine-tuned)"
    print(f"{HEAD}\n| {options.protocol} | paper | | {left} | | |", flush=True)
    torch.manual_seed(options.seed)
    data = vibfx.load_data(options.data, seed=options.seed, augment=row.augment)
    model: nn.Module = vgg(row.convs, row.hidden, row.classes)
    graph = vibfx.trace(model.eval(), next(iter(data.test))[0][:2])
    vibfx.fine_tune(graph, data.train, epochs=options.pretraining, seed=options.seed)
    model.load_state_dict(graph.state_dict())
    begin, share = time.perf_counter(), 1e6 / vibfx.measure(graph).flops
    result = vibfx.compress(
        model,
        data,
        target=f"flops={row.flops * share:.4f},params={row.r_w / 100:.4f}",
        epochs=options.epochs,
        seed=options.seed,
    )
    seconds = time.perf_counter() - begin
    control = from_scratch(result.module, options.seed)
    vibfx.fine_tune(control, data.train, epochs=options.epochs, seed=options.seed)
    report, shares = result.report, result.report.shares
    scores = (report.before.score, report.after.score, evaluate(control, data.test))
    before, after, scratch = (100 * (1 - (score.accuracy or 0)) for score in scores)
    print(
        f"| {options.protocol} | ours | {before:.2f} | {100 * shares.r_w:.2f} "
        f"| {report.after.flops / 1e6:.2f} | {100 * shares.r_n:.2f} | {after:.2f} "
        f"| {scratch:.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main()
