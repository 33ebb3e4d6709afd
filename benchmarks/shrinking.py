"""What shrinking during training saves: the same compression with and without it, side by side.

    make shrinking VIBFX_DATA=DIR        (or: python benchmarks/shrinking.py mnist:DIR)

LeNet-5 is trained first, then compressed twice from the same weights, with the same seed. Prints a
Markdown table. Times are of one process after the other on the same machine.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from facts import facts
from torch import fx

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.passes import FoldGates, InsertGates, PruneChannels
from vibfx.training.loop import accuracy
from vibfx.training.phases import default_epochs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from mnist_networks import NETWORKS
from train_mnist import train as pretrain

CPU = torch.device("cpu")
HEAD = """\
| Network | Target | Shrinking | Seconds: gates | fine-tune | all | FLOPs left % | Test error % |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Train the original, compress it twice, print a row after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("--target", default="flops=0.1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = vibfx.load_data(options.data, seed=options.seed)
    model = NETWORKS["lenet5"]()
    pretrain(model, data.train, 4)
    graph = vibfx.trace(model.eval(), next(iter(data.test))[0][:2])
    print(HEAD, flush=True)
    seconds = {}
    for shrinking in (True, False):
        row, seconds[shrinking] = compress(graph, data, options.target, options.seed, shrinking)
        print(
            f"| LeNet-5 | {options.target} | {'yes' if shrinking else 'no'} | {row} |", flush=True
        )
    print(f"\nWithout shrinking: {seconds[False] / seconds[True]:.2f} times as long.\n")
    for name, value in facts("make shrinking", ("vibfx", "torch")).items():
        print(f"- {name}: {value}")


def compress(
    graph: fx.GraphModule, data: vibfx.data.Data, target: str, seed: int, shrinking: bool
) -> tuple[str, float]:
    """Gates, cut, fine-tune; the cells of a row, and the seconds of all."""
    gated = InsertGates(vibfx.analyze(graph))(copy_graph_module(graph)).graph_module
    epochs = default_epochs(data.train)
    start = time.perf_counter()
    vibfx.train(gated, data.train, target=target, seed=seed, shrinking=shrinking)
    trained = time.perf_counter()
    small = FoldGates()(PruneChannels(vibfx.plan(gated))(gated).graph_module).graph_module
    vibfx.fine_tune(small, data.train, epochs=round(epochs / 4), seed=seed)
    done = time.perf_counter()
    left = vibfx.measure(small).flops / vibfx.measure(graph).flops
    error = 1 - accuracy(small, data.test, CPU)
    cells = (
        f"{trained - start:.0f} | {done - trained:.0f} | {done - start:.0f} | "
        f"{100 * left:.2f} | {100 * error:.2f}"
    )
    return cells, done - start


if __name__ == "__main__":
    main()
