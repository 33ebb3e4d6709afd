"""What shrinking during training saves: the same compression with and without it, side by side.

    cd benchmarks
    python shrinking.py lenet5 mnist:DIR
    python shrinking.py resnet20 cifar10.npz --weights resnet20_cifar10.th

A trained network is compressed twice, from the same weights and with the same seed. LeNet-5 is
trained first. Prints a Markdown table. The two take turns of two seconds with one thread each, the
other one stopped, and what counts is the processor time of each: so each has the caches for itself,
and whatever the machine does besides slows both alike.
"""

import argparse
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, get_args

import torch
from facts import facts
from starting import start
from torch import nn

import vibfx
from vibfx.passes import FoldGates, InsertGates, PruneChannels
from vibfx.training.engine import Hardware, Precision
from vibfx.training.evaluation import evaluate
from vibfx.training.phases import default_epochs

TARGETS = {"lenet5": "flops=0.1", "resnet20": "flops=0.3"}
TURN = 2.0  # seconds
HEAD = """\
| Network | Target | Precision | Shrinking | Gates s | Fine-tune s | All s | FLOPs % | Error % |
|---|---|---|---|--:|--:|--:|--:|--:|"""


def main() -> None:
    """Compress a network twice, print a row after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=TARGETS)
    parser.add_argument("data", help="as for vibfx compress --data")
    parser.add_argument("--weights", help="the checkpoint of resnet20")
    parser.add_argument("--target", help="by default flops=0.1, of resnet20 flops=0.3")
    parser.add_argument("--epochs", type=int, help="with gates; a quarter as many more follow")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, model = start(options.network, options.data, seed=options.seed, weights=options.weights)
    target = options.target or TARGETS[options.network]
    print(f"Test error before: {100 * error(model.eval(), data):.2f} %\n")
    print(HEAD, flush=True)
    runs, spawning = {}, get_context("spawn")
    for shrinking in (True, False):
        ours, theirs = spawning.Pipe(duplex=False)
        job = (theirs, model, data, target, options, shrinking)
        runs[shrinking] = spawning.Process(target=report, args=job), ours
    take_turns([process for process, _ in runs.values()])
    seconds = {}
    for shrinking, (_, ours) in runs.items():
        if not ours.poll():
            raise SystemExit("A run failed: see above.")
        row, seconds[shrinking] = ours.recv()
        what = f"{options.network} | {target} | {options.precision}"
        print(f"| {what} | {'yes' if shrinking else 'no'} | {row} |")
    print(f"\nWithout shrinking: {seconds[False] / seconds[True]:.2f} times as long.\n")
    command = f"python shrinking.py {options.network} --precision {options.precision}"
    for name, value in facts(command, ("vibfx", "torch")).items():
        print(f"- {name}: {value}")


def take_turns(processes: Sequence[BaseProcess]) -> None:
    """Run processes to their ends, one at a time, each for a turn."""
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            for this in processes:
                for other in processes:
                    if other.is_alive():
                        os.kill(other.pid, signal.SIGCONT if other is this else signal.SIGSTOP)
                this.join(TURN)
    finally:
        for process in processes:
            process.kill()


def report(where: Connection, *job: Any) -> None:
    """Compress with one thread, and send what came out."""
    torch.set_num_threads(1)
    where.send(compress(*job))


def compress(
    model: nn.Module,
    data: vibfx.data.Data,
    target: str,
    options: argparse.Namespace,
    shrinking: bool,
) -> tuple[str, float]:
    """Gates, cut, fine-tune; the cells of a row, and the seconds of all."""
    torch.manual_seed(options.seed)
    graph = vibfx.trace(model, next(iter(data.test))[0][:2])
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    epochs, seed = options.epochs or default_epochs(data.train), options.seed
    how: dict[str, Any] = {"seed": seed, "hardware": Hardware(precision=options.precision)}
    begin = time.process_time()
    vibfx.train(gated, data.train, target=target, epochs=epochs, shrinking=shrinking, **how)
    trained = time.process_time()
    small = FoldGates()(PruneChannels(vibfx.plan(gated))(gated).graph_module).graph_module
    vibfx.fine_tune(small, data.train, epochs=round(epochs / 4), **how)
    done = time.process_time()
    left = vibfx.measure(small).flops / vibfx.measure(graph).flops
    cells = (
        f"{trained - begin:.0f} | {done - trained:.0f} | {done - begin:.0f} | "
        f"{100 * left:.2f} | {100 * error(small, data):.2f}"
    )
    return cells, done - begin


def error(graph: nn.Module, data: vibfx.data.Data) -> float:
    """The share of test examples that are classified wrong."""
    return 1 - (evaluate(graph, data.test).accuracy or 0.0)


if __name__ == "__main__":
    main()
