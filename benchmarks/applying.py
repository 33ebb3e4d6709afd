"""Every classifier of torchvision in its own class, narrower: ``vibfx.apply`` by random plans.

    cd benchmarks && python applying.py [--only REGEX]

Random weights, and a random plan that keeps about half of each group's units and at least one, with
norms that run across channels left alone. The module that comes back is compared with the cut graph
on inputs of its own, in float64. Each model runs in a process of its own; one that has a
result in benchmarks/applying.jsonl is not run again. The table goes to docs/applying.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from facts import facts
from torch import Tensor, fx, nn
from zoo.entries import Entry, call
from zoo.from_torchvision import entries
from zoo.processes import Limits, prepare, run_worker
from zoo.progress import Progress, Record
from zoo.records import append, load, remaining
from zoo.table import line
from zoo.weights import prepare_model

import vibfx
from vibfx.applying import applied
from vibfx.copying import copy_graph_module
from vibfx.errors import PlanError
from vibfx.graph import to_dtype
from vibfx.passes import PruneChannels
from vibfx.planning import Keep, PruningPlan, plan_units

WORKER = "applying"
FOLDER = Path(__file__).resolve().parent
DOCS = FOLDER.parent / "docs"
RESULTS = FOLDER / "applying.jsonl"
PACKAGES = ("vibfx", "torch", "torchvision")
SHARE = 0.5
TOLERANCE = 1e-5
TITLES = ("Model", "Parameters", "left %", "FLOPs left %", "Error", "Seconds")


def main() -> None:
    """All models, each in a process of its own; in such a process the one that is named."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("torchvision/"):
        found = next(entry for entry in entries() if entry.name == sys.argv[1])
        progress = Progress(name=found.name, note=found.note)
        with progress.until_done():
            check(found, progress)
        return
    options = parse()
    prepare(["vibfx", "torchvision"], threads=1)
    models = [entry for entry in entries() if entry.family == "torchvision"]
    limits = Limits(gigabytes=options.gigabytes)
    for entry in remaining(models, load(options.results), options.only, again=options.again):
        record = run_worker(WORKER, [entry.name], limits)
        append(options.results, record)
        print(line(cells(record)), flush=True)
    known = load(options.results)
    options.docs.mkdir(parents=True, exist_ok=True)
    text = report([known[entry.name] for entry in models if entry.name in known], len(models))
    (options.docs / "applying.md").write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="models to run, by name")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--gigabytes", type=float, default=8, help="limit of each process")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for the table")
    return parser.parse_args()


def check(entry: Entry, progress: Progress) -> None:
    """Build, plan, apply, compare; every number goes into the record."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x = entry.build()
    assert isinstance(x, Tensor)
    model.eval()
    prepare_model(model, lambda: call(model, x))
    kind = type(model)
    graph = vibfx.trace(model, x)
    plan = random_plan(graph)
    before = vibfx.measure(graph)
    progress.note(parameters=before.parameters)
    try:
        with progress.step("apply", "apply_s"):
            result = applied(plan, model)
    except PlanError as refusal:
        progress.note(status="refused", reason=f"{refusal.what} (at {refusal.where})")
        return
    small = PruneChannels(plan)(graph).graph_module
    error = difference(model, small, tuple(x.shape[1:]))
    progress.note(
        status="ok" if type(model) is kind and error <= TOLERANCE else "wrong",
        error=error,
        left=result.after.parameters / before.parameters,
        flops=result.after.flops / before.flops,
    )


def random_plan(graph: fx.GraphModule, seed: int = 0) -> PruningPlan:
    """About half of the units of each group, and at least one."""
    found = vibfx.analyze(graph, norms="freeze")
    generator = np.random.default_rng(seed)
    keep: Keep = generator.random(found.units) < SHARE
    for group in found.groups:
        if not keep[group.units].any():
            keep[group.start + generator.integers(group.size)] = True
    return plan_units(graph, found, keep)


def difference(module: nn.Module, graph: fx.GraphModule, shape: tuple[int, ...]) -> float:
    """The largest difference of outputs, relative to how much they change between inputs."""
    reference = to_dtype(copy_graph_module(graph), torch.float64)
    module.double().eval()
    generator = torch.Generator().manual_seed(1)
    gap = change = 0.0
    for batch in (2, 5):
        inputs = [
            torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for _ in range(2)
        ]
        with torch.no_grad():
            own, expected = ([run(x) for x in inputs] for run in (module, reference))
        gap = max([gap, *(float((a - b).abs().max()) for a, b in zip(own, expected, strict=True))])
        change = max(change, float((expected[0] - expected[1]).abs().max()))
    return gap / change


def cells(record: Record) -> tuple[str, ...]:
    """One row of the table."""
    name = str(record.get("name", "?")).partition("/")[2]
    note = f" ({record['note']})" if record.get("note") else ""
    seconds = f"{record['apply_s']:.0f}" if "apply_s" in record else "-"
    size = f"{record['parameters']:,}" if "parameters" in record else "-"
    if "error" not in record:
        return name + note, size, "-", "-", str(record.get("status", "no result")), seconds
    shares = (f"{100 * record[key]:.1f}" for key in ("left", "flops"))
    return name + note, size, *shares, f"{record['error']:.0e}", seconds


def report(records: list[Record], models: int) -> str:
    """The table, and every refusal with its reason."""
    done = [r for r in records if r.get("status") == "ok"]
    refused = [r for r in records if r.get("status") == "refused"]
    other = len(records) - len(done) - len(refused)
    missing = f" {models - len(records)} were not run yet." if models > len(records) else ""
    head = "\n".join(f"- {k}: {v}" for k, v in facts("make applying", PACKAGES).items())
    rows = "\n".join(line(cells(record)) for record in records)
    reasons = "\n".join(f"- {name(r)}: {r['reason']}" for r in refused)
    return f"""# A plan applied to the module itself

Random weights, and a random plan that keeps about half of each group's units and at least one, with
norms that run across channels left alone. The module that `vibfx.apply` returns is compared with
the cut graph on inputs of its own, in float64; the error is relative to how much the output
changes between inputs.

{head}

{len(done)} of {len(records)} are the class that they were, equal to the cut graph within
{TOLERANCE:.0e}; {len(refused)} are refused, with the reasons below; {other} failed \
otherwise.{missing}

{line(TITLES)}
|---|--:|--:|--:|--:|--:|
{rows}

## Refused

{reasons or "None."}
"""


def name(record: Record) -> str:
    """The model's name without its family."""
    return str(record["name"]).partition("/")[2]


if __name__ == "__main__":
    main()
