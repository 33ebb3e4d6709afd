"""Compression without labels, and without data: what the result does on real test images.

    cd benchmarks
    python data_free.py resnet20 cifar10.npz --weights resnet20_cifar10.th

A trained network is compressed twice to the same budget: on its training images without their
labels, and on inputs made from the network itself. Prints a Markdown table with the accuracy of
each result on the test images, and how many of them get the original's answer.
"""

import argparse
import time
from dataclasses import replace

from facts import facts
from starting import NETWORKS, start

import vibfx
from vibfx.data import Data, Loader, inputs_and_labels
from vibfx.training.evaluation import evaluate

HEAD = """\
| Network | Trained on | FLOPs left % | Test accuracy % | The original's answer % | Seconds |
|---|---|--:|--:|--:|--:|"""


class Unlabelled:
    """A loader whose labels are left out.

    Args:
        loader: Batches with labels.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self):
        return (inputs_and_labels(batch)[0] for batch in self._loader)


def main() -> None:
    """Compress twice, print a row after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("data", help="as for vibfx compress --data")
    parser.add_argument("--weights", help="the checkpoint of resnet20")
    parser.add_argument("--target", default="flops=0.5")
    parser.add_argument("--epochs", type=int, help="in all, on the training images")
    parser.add_argument("--made-epochs", type=int, help="in all, on inputs that are made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, model = start(options.network, options.data, seed=options.seed, weights=options.weights)
    shape = tuple(inputs_and_labels(next(iter(data.test)))[0].shape[1:])
    original = vibfx.trace(model, inputs_and_labels(next(iter(data.test)))[0][:2])
    print(f"Test accuracy before: {100 * (evaluate(original, data.test).accuracy or 0):.2f} %\n")
    print(HEAD, flush=True)
    for words, given, epochs in (
        ("inputs made from it", None, options.made_epochs),
        ("training images", without_labels(data), options.epochs),
    ):
        begin = time.perf_counter()
        result = vibfx.compress(
            model,
            given,
            input_shape=None if given else shape,
            target=options.target,
            epochs=epochs,
            seed=options.seed,
        )
        score = evaluate(result.module, data.test, original=original)
        print(
            f"| {options.network} | {words} | {100 * result.report.shares.flops:.2f} "
            f"| {100 * (score.accuracy or 0):.2f} | {100 * (score.agreement or 0):.2f} "
            f"| {time.perf_counter() - begin:.0f} |",
            flush=True,
        )
    print()
    for name, value in facts(f"python data_free.py {options.network}", ("vibfx", "torch")).items():
        print(f"- {name}: {value}")


def without_labels(data: Data) -> Data:
    """The same inputs."""
    parts = {name: Unlabelled(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **parts, classes=(), labels="none")


if __name__ == "__main__":
    main()
