"""How long the analysis takes and how much memory it needs, against the size of the network.

    make scaling        (or: cd benchmarks && python analysis_scaling.py)

Writes ``docs/analysis_scaling.md`` and its picture. Each network has a process of its own.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from drawing import Axis, Drawing, log_axis
from facts import facts
from synthetic import LAYERS, SHAPES, network
from torch import fx
from zoo.processes import Limits, prepare, run_worker
from zoo.progress import Progress, Record

import vibfx

DOCS = Path(__file__).resolve().parent.parent / "docs"
WORKER = "analysis_scaling"
NODES = (100, 300, 1_000, 3_000, 10_000, 20_000)
SIDES = (32, 128, 512, 1024)
MEMORY_NODES = 1_000
COLORS = ("#2a7f62", "#c9a227", "#b5482e", "#3b5b92", "#7a4f9a", "#555555")
LIMITS = Limits(seconds=900, gigabytes=10)
REPEATS = 3
SLOW = 10.0


def main() -> None:
    """Measure everything, or, as a worker, one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", nargs=4, metavar=("SHAPE", "LAYER", "NODES", "SIDE"))
    parser.add_argument("--most", type=int, default=max(NODES), help="largest number of nodes")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for table and picture")
    options = parser.parse_args()
    if options.worker:
        shape, kind, nodes, side = options.worker
        measure(shape, kind, int(nodes), int(side))
        return
    prepare([WORKER], threads=1)
    sizes = [n for n in NODES if n <= options.most]
    times = [run(s, k, n, 8) for s, k, n in product(SHAPES, LAYERS, sizes)]
    memory = [run(s, "conv", MEMORY_NODES, side) for s, side in product(SHAPES, SIDES)]
    memory += [run("resnet18", "conv", 0, side) for side in SIDES]
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "analysis_scaling.md").write_text(report(times, memory), encoding="utf-8")
    (options.docs / "analysis_scaling.svg").write_text(picture(times), encoding="utf-8")


def run(shape: str, kind: str, nodes: int, side: int) -> Record:
    """One network in a process of its own."""
    asked = [shape, kind, str(nodes), str(side)]
    record = run_worker(WORKER, ["--worker", *asked], LIMITS)
    print({**record, "asked": asked}, file=sys.stderr, flush=True)
    return {"shape": shape, "layer": kind, "asked": nodes, "side": side, **record}


def measure(shape: str, kind: str, nodes: int, side: int) -> None:
    """Analyse once for the memory, and again for the time while that is short."""
    progress = Progress()
    with progress.until_done():
        with progress.step("build", "build_s"):
            graph = graph_of(shape, kind, nodes, side)
        progress.note(nodes=len(graph.graph.nodes), step="analyze")
        gc.collect()
        gc.freeze()  # going through all that was imported falls to now this run, now that
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        seconds = [once(graph, progress)]
        progress.note(analyze_s=seconds[0], memory_mb=(status("VmHWM") - before) / 1024)
        while len(seconds) < REPEATS and sum(seconds) < SLOW:
            seconds.append(once(graph, progress))
        progress.note(analyze_s=min(seconds), runs=len(seconds))


def graph_of(shape: str, kind: str, nodes: int, side: int) -> fx.GraphModule:
    """A synthetic network, or a traced ``resnet18``."""
    if shape != "resnet18":
        return network(shape, kind, nodes, side)
    import torchvision

    return vibfx.trace(torchvision.models.resnet18(), torch.randn(2, 3, side, side))


def once(graph: fx.GraphModule, progress: Progress) -> float:
    """Seconds of one analysis."""
    start = time.perf_counter()
    found = vibfx.analyze(graph)
    seconds = time.perf_counter() - start
    progress.record.update(units=found.units, groups=len(found.groups))
    return seconds


def status(name: str) -> int:
    """Kibibytes of an entry of this process's status; its present or its largest memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(value)


def report(times: Sequence[Record], memory: Sequence[Record]) -> str:
    """The Markdown document."""
    head = facts("make scaling", ("vibfx", "torch"))
    rows = ["| Network | Layers | Nodes | Units | Groups | Analysis s | µs a node |"]
    rows += ["|" + "---|" * 7, *(time_row(r) for r in times)]
    more = ["| Network | Nodes | Side of the input | Analysis s | Peak memory, MB |"]
    more += ["|" + "---|" * 5, *(memory_row(r) for r in memory)]
    return "\n\n".join(
        (
            "# Analysis against size",
            "\n".join(f"- {name}: {value}" for name, value in head.items()),
            "![Seconds against nodes](analysis_scaling.svg)",
            f"## Time\n\nThe best of {REPEATS} analyses where they are short.{growth(times)}",
            "\n".join(rows),
            "## Memory\n\nHow far the resident memory rises while the graph is analysed.",
            "\n".join(more) + "\n",
        )
    )


def growth(times: Sequence[Record]) -> str:
    """The exponent of the time over all sizes, by least squares: the largest of all networks."""
    exponents = []
    for _, records in series(times):
        if len(records) > 1:
            nodes = np.log([r["nodes"] for r in records])
            seconds = np.log([r["analyze_s"] for r in records])
            exponents.append(np.polyfit(nodes, seconds, 1)[0])
    if not exponents:
        return ""
    return f" Over all sizes, time grows like nodes^{max(exponents):.2f} at most (least squares)."


def series(times: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """The finished measurements of each network."""
    return [
        (
            f"{s}, {k}",
            [r for r in times if (r["shape"], r["layer"]) == (s, k) and "analyze_s" in r],
        )
        for s, k in product(SHAPES, LAYERS)
    ]


def time_row(r: Record) -> str:
    """One row of the first table."""
    if "analyze_s" not in r:
        return f"| {r['shape']} | {r['layer']} | {r['asked']:,} | - | - | {r.get('status')} | - |"
    each = 1e6 * r["analyze_s"] / r["nodes"]
    return (
        f"| {r['shape']} | {r['layer']} | {r['nodes']:,} | {r['units']:,} | {r['groups']:,} | "
        f"{r['analyze_s']:.3f} | {each:.0f} |"
    )


def memory_row(r: Record) -> str:
    """One row of the second table."""
    if "memory_mb" not in r:
        return f"| {r['shape']} | - | {r['side']} | {r.get('status')} | - |"
    return (
        f"| {r['shape']} | {r['nodes']:,} | {r['side']} | {r['analyze_s']:.3f} | "
        f"{r['memory_mb']:.1f} |"
    )


def picture(times: Sequence[Record]) -> str:
    """Seconds against nodes, both logarithmic, as SVG."""
    drawing = Drawing(620, 380)
    done = [r for r in times if "analyze_s" in r]
    across = log_axis([r["nodes"] for r in done], 70, 470)
    up = log_axis([r["analyze_s"] for r in done], 330, 40)
    drawing.text(70, 24, "Seconds of analysis against nodes of the graph")
    draw_grid(drawing, across, up)
    for number, (name, records) in enumerate(series(times)):
        color = COLORS[number]
        points = [(across.at(r["nodes"]), up.at(r["analyze_s"])) for r in records]
        drawing.path(points, color)
        for (x, y), r in zip(points, records, strict=True):
            drawing.dot(x, y, color, f"{name}: {r['nodes']:,} nodes, {r['analyze_s']:.3f} s")
        drawing.box(490, 50 + 20 * number, 10, 10, color)
        drawing.text(506, 59 + 20 * number, name)
    return drawing.svg()


def draw_grid(drawing: Drawing, across: Axis, up: Axis) -> None:
    """A line a decade."""
    for value in across.decades():
        drawing.line(across.at(value), up.start, across.at(value), up.end)
        drawing.text(across.at(value), up.start + 16, f"{value:,.0f}", "middle")
    for value in up.decades():
        drawing.line(across.start, up.at(value), across.end, up.at(value))
        drawing.text(across.start - 6, up.at(value) + 4, f"{value:g}", "end")


if __name__ == "__main__":
    main()
