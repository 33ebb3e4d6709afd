"""Gates against Torch-Pruning's importances: same network, data, budget and number of epochs.

    make baselines VIBFX_DATA=DIR        (or: cd benchmarks, and one of)
    python baselines.py lenet5 mnist:DIR
    python baselines.py resnet20 cifar10.npz --weights resnet20_cifar10.th --target flops=0.3

For each seed all methods start from the same trained network, end just within the budget and are
fine-tuned by the same function with the same optimizer, rate, schedule and seed. The epochs are as
many for all: the gates get at most 80 % of them, as in ``vibfx.compress``, and the fine-tune what
is left; an importance needs no training, so the fine-tune has all of them, which is the best that
it can get.
What ends below 97 % of the budget says so in its row, and so does what fails. What Torch-Pruning
would cut wrongly is left alone (``pruning.partly_reached``): the sums of ResNet-20.

Prints a Markdown table: means over the seeds, of the errors with their standard deviation. Seconds
are those of cutting (with the gates' training, or Taylor's gradients) and of the fine-tune. With
``--results FILE.jsonl`` every finished method and seed is a line there, and the same command goes
on where it was interrupted.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from facts import facts
from pruning import CLOSE, IMPORTANCES, prune
from starting import NETWORKS, start
from torch import fx, nn
from zoo.progress import Record, first_line
from zoo.records import append, load

import vibfx
from vibfx.budgets import parse_target
from vibfx.data import Data
from vibfx.errors import TargetError
from vibfx.metrics import shares
from vibfx.passes import FoldGates, InsertGates, PruneChannels
from vibfx.training.course import Course
from vibfx.training.engine import choose_device
from vibfx.training.evaluation import evaluate
from vibfx.training.loop import Outcome
from vibfx.training.objectives import Supervised

GATES = "VIB gates"
METHODS = (GATES, *IMPORTANCES)
HEAD = """\
| Method | FLOPs left % | Parameters left % | r_W % | Test error %: cut | fine-tuned | Seconds | |
|---|--:|--:|--:|--:|--:|--:|---|"""


@dataclass(frozen=True)
class Task:
    """What every method is asked.

    Attributes:
        share: Of the FLOPs, that may be left.
        epochs: In all.
        seed: Of everything random.
    """

    share: float
    epochs: int
    seed: int

    def __str__(self) -> str:
        return f"flops={self.share:g}, {self.epochs} epochs, seed {self.seed}"


def main() -> None:
    """Run what is not in the results yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("data", help="as for vibfx compress --data")
    parser.add_argument("--weights", help="the checkpoint of resnet20")
    parser.add_argument("--target", default="flops=0.3", help="flops=SHARE")
    parser.add_argument("--epochs", type=int, default=10, help="of every method, in all")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--results", type=Path, help="a file to go on with")
    options = parser.parse_args()
    if min(options.epochs, options.seeds) < 1:
        parser.error("--epochs and --seeds must be at least 1")
    share = share_of(options.target)
    tasks = [Task(share, options.epochs, seed) for seed in range(options.seeds)]
    begin = partial(start, options.network, options.data, weights=options.weights)
    name = f"{options.network} on {options.data}"
    records = run(name, begin, tasks, options.methods, options.results)
    print(table(records) + "\n")
    asked = f"--target {options.target} --epochs {options.epochs} --seeds {options.seeds}"
    command = f"python baselines.py {options.network} DATA {asked}"
    for fact, value in facts(command, ("vibfx", "torch", "torch-pruning")).items():
        print(f"- {fact}: {value}")


def share_of(target: str) -> float:
    """The share of the FLOPs that a target names.

    Raises:
        TargetError: It is no target, or not one of FLOPs alone.
    """
    budgets = parse_target(target)
    if len(budgets) > 1 or budgets[0].kind != "flops":
        raise TargetError(f"{target!r} is not one of FLOPs alone", hint="Write flops=SHARE.")
    return budgets[0].share


def run(
    name: str,
    begin: Callable[..., tuple[Data, nn.Module]],
    tasks: Sequence[Task],
    methods: Sequence[str],
    results: Path | None,
) -> list[Record]:
    """Every method at every task, one after the other.

    Args:
        name: Of network and data, in the results.
        begin: Takes ``seed``; returns the data and the trained network.
        tasks: One a seed.
        methods: Some of ``METHODS``.
        results: What has a line there is not run again; what is run adds one.

    Returns:
        One record for each method and task, a method's together.
    """
    done = load(results) if results else {}
    names = {(m, task): f"{name}, {task}, {m}" for m in methods for task in tasks}
    for task in tasks:
        left = [m for m in methods if names[m, task] not in done]
        if not left:
            continue
        data, model = begin(seed=task.seed)
        for method in left:
            record = attempt(method, task, data, copy.deepcopy(model))
            record = {"name": names[method, task], "method": method, "seed": task.seed, **record}
            print(record, file=sys.stderr, flush=True)
            done[record["name"]] = record
            if results:
                append(results, record)
    return [done[key] for key in names.values()]


def attempt(method: str, task: Task, data: Data, model: nn.Module) -> Record:
    """What a method makes of a network, or why it fails."""
    torch.manual_seed(task.seed)
    try:
        return measure(method, task, data, model)
    except Exception as error:  # the others go on, and the table says what happened
        return {"failed": f"{type(error).__name__}: {first_line(error)}"}


def measure(method: str, task: Task, data: Data, model: nn.Module) -> Record:
    """Cut, fine-tune, and measure before, between and after.

    Raises:
        TargetError: The result is above the budget.
    """
    x = next(iter(data.test))[0][:2]
    graph = vibfx.trace(model, x)
    before, full = error_of(graph, data), vibfx.measure(graph)
    begin = time.perf_counter()
    if method == GATES:
        small, epochs = by_gates(graph, data, task)
    else:
        prune(model, method, task.share, x, data.train)
        small, epochs = vibfx.trace(model, x), task.epochs
    seconds = time.perf_counter() - begin
    left = shares(full, vibfx.measure(small))
    if left.flops > task.share:
        raise TargetError(f"it ends at {100 * left.flops / task.share:.1f} % of the budget")
    cut = error_of(small, data)
    begin = time.perf_counter()
    whole(vibfx.fine_tune(small, data.train, epochs=epochs, seed=task.seed))
    seconds += time.perf_counter() - begin
    sizes = {"flops": left.flops, "params": left.params, "r_w": left.r_w}
    sizes["budget"] = left.flops / task.share
    return {**sizes, "before": before, "cut": cut, "tuned": error_of(small, data), "s": seconds}


def by_gates(graph: fx.GraphModule, data: Data, task: Task) -> tuple[fx.GraphModule, int]:
    """The graph without the channels whose gates have shut, and the epochs left for its tuning."""
    tuning = min(max(1, round(task.epochs / 5)), task.epochs - 1)
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    course = Course(
        original=graph,
        data=data,
        objective=Supervised(),
        score=partial(evaluate, device=choose_device()),
        on_stage=partial(print, file=sys.stderr),
        seed=task.seed,
    )
    left = course.compress(gated, target=f"flops={task.share}", epochs=task.epochs - tuning)
    if course.interrupted:
        raise KeyboardInterrupt
    small = FoldGates()(PruneChannels(vibfx.plan(gated))(gated).graph_module).graph_module
    return small, tuning + round(left)


def whole(outcome: Outcome) -> None:
    """Pass Ctrl-C on: what was broken off is no result."""
    if outcome.interrupted:
        raise KeyboardInterrupt


def error_of(module: fx.GraphModule, data: Data) -> float:
    """The share of wrong answers on the test set."""
    return 1 - (evaluate(module, data.test, choose_device()).accuracy or 0.0)


def table(records: Sequence[Record]) -> str:
    """The error of the networks before, and a row a method, in Markdown."""
    methods = dict.fromkeys(record["method"] for record in records)
    rows = [row(method, [r for r in records if r["method"] == method]) for method in methods]
    before = {record["seed"]: record["before"] for record in records if "before" in record}
    head = f"Test error before: {spread(list(before.values()))} %"
    return "\n".join([head, "", HEAD, *rows])


def row(method: str, records: Sequence[Record]) -> str:
    """Means over the seeds at which a method did not fail, and what to note of single ones."""
    good = [record for record in records if "failed" not in record]
    cells = [method]
    if good:
        cells += [f"{100 * mean(r[key] for r in good):.2f}" for key in ("flops", "params", "r_w")]
        cells += [spread([r[key] for r in good]) for key in ("cut", "tuned")]
        cells += [f"{mean(r['s'] for r in good):.0f}"]
    else:
        cells += ["-"] * 6
    notes = [f"seed {record['seed']}: {said}" for record in records if (said := note(record))]
    return f"| {' | '.join([*cells, '; '.join(notes).replace('|', '/')])} |"


def note(record: Record) -> str:
    """Why a method failed, or that it ends further below the budget than the others."""
    if "failed" in record:
        return str(record["failed"])
    within = record["budget"] >= CLOSE
    return "" if within else f"ends at {100 * record['budget']:.1f} % of the budget"


def spread(errors: Sequence[float]) -> str:
    """Mean and standard deviation in per cent; of one seed there is none."""
    if not errors:
        return "-"
    deviation = f" ± {100 * stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{100 * mean(errors):.2f}{deviation}"


if __name__ == "__main__":
    main()
