"""Run the zoo and write its report.

    make zoo                                        all models
    cd benchmarks && python -m zoo --only swin      those whose name holds "swin"
    cd benchmarks && python -m zoo --report         only write the report anew

Results go to a file of one line a model; a model that has one is not run again.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from facts import facts

from zoo.entries import Entry
from zoo.models import entries
from zoo.picture import picture
from zoo.processes import Limits, prepare, run_worker
from zoo.progress import Record
from zoo.records import append, load, remaining
from zoo.table import cells, line, report

FOLDER = Path(__file__).resolve().parent.parent
DOCS = FOLDER.parent / "docs"
RESULTS = FOLDER / "zoo.jsonl"
WORKERS = CHECK, BASELINE = "zoo.check", "zoo.baseline"
PACKAGES = (
    *("vibfx", "torch", "torchvision", "timm", "transformers"),
    *("torch-pruning", "onnxruntime"),
)
ONNX_EVERY = 8


def main() -> None:
    """Run what is asked for and has no result yet, then write table and picture."""
    options = parse()
    limits = Limits(options.seconds, options.gigabytes)
    prepare([*WORKERS, "timm"], options.threads)
    todo = remaining(entries(), load(options.results), options.only, again=options.again)
    if not options.report:
        with ThreadPoolExecutor(options.jobs) as pool:
            for done in as_completed(pool.submit(measure, entry, limits) for entry in todo):
                append(options.results, done.result())
                print(line(cells(done.result())), flush=True)
    write(load(options.results), options.docs)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="models to run, by name")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, each")
    parser.add_argument(
        "--seconds",
        type=float,
        default=600,
        help="limit for each model; half of it for Torch-Pruning",
    )
    parser.add_argument("--gigabytes", type=float, default=10, help="limit of each process")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for table and picture")
    return parser.parse_args()


def measure(entry: Entry, limits: Limits) -> Record:
    """One model through both, each in its own process.

    What Torch-Pruning has not built in half the time it does not build in three times as long.
    """
    sampled = ["--onnx"] if entries().index(entry) % ONNX_EVERY == 0 else []
    record = run_worker(CHECK, [entry.name, *sampled], limits)
    other = run_worker(BASELINE, [entry.name], replace(limits, seconds=limits.seconds / 2))
    known = {"name": entry.name, "family": entry.family, "note": entry.note}
    return {**record, **known, "tp": other}


def write(results: dict[str, Record], folder: Path) -> None:
    """The report and the picture of all results there are, in the order of the list."""
    records = [results[entry.name] for entry in entries() if entry.name in results]
    folder.mkdir(parents=True, exist_ok=True)
    text = report(records, facts("make zoo", PACKAGES))
    (folder / "zoo.md").write_text(text, encoding="utf-8")
    (folder / "zoo.svg").write_text(picture(records), encoding="utf-8")


if __name__ == "__main__":
    main()
