"""What the results say in numbers."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from zoo.progress import Record

ONNX_TOLERANCE = 1e-4


def traced(record: Record) -> bool:
    """Whether the model became a graph."""
    return "trace_s" in record


def exact(record: Record) -> bool:
    """Whether the cut graph is equal, and the negative control was told apart."""
    return record.get("status") == "exact" and controlled(record)


def controlled(record: Record) -> bool:
    """Whether the comparison failed when it had to."""
    return "unit" in str(record.get("control", ""))


def own_seconds(record: Record, *, with_trace: bool = False) -> float:
    """Analysis, plan and rewrite; the capture of the graph as well if asked for."""
    parts = ("analyze_s", "plan_s", "prune_s", *(("trace_s",) if with_trace else ()))
    return sum(float(record[part]) for part in parts)


def other_seconds(record: Record) -> float:
    """Torch-Pruning's dependency graph and pruning."""
    return float(record["tp"]["build_s"]) + float(record["tp"]["prune_s"])


def ratio(record: Record, *, with_trace: bool = False) -> float | None:
    """Our seconds over Torch-Pruning's, where both made a smaller network that runs."""
    if "prune_s" not in record or not pruned_by_other(record):
        return None
    return own_seconds(record, with_trace=with_trace) / max(other_seconds(record), 1e-4)


def pruned_by_other(record: Record) -> bool:
    """Whether Torch-Pruning removed something and the result runs."""
    tp = record.get("tp", {})
    return bool(tp.get("runs")) and tp.get("status") != "nothing pruned"


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; not a number if there are none."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def summarize(records: Sequence[Record]) -> tuple[str, ...]:
    """The sentences that head the report."""
    graphs = [r for r in records if traced(r)]
    right = [r for r in records if exact(r)]
    nothing = [r for r in records if str(r.get("status", "")).startswith("NothingRemovable")]
    wrong = [r for r in records if str(r.get("status", "")).startswith("EquivalenceError")]
    blind = [r for r in records if r.get("status") == "exact" and not controlled(r)]
    onnx = [r["onnx"] for r in records if "onnx" in r]
    agreed = [d for d in onnx if isinstance(d, float) and d <= ONNX_TOLERANCE]
    shares = [100 * float(r["removable"]) for r in graphs if "removable" in r]
    return (
        f"**{len(records)} models.** Traced: {of(graphs, records)}.",
        f"Cut with a random half of every group shut, equal in float64 to 1e-9 and told apart "
        f"by the negative control: {of(right, records)}, {of(right, graphs)} of those traced.",
        f"Comparison failed: {len(wrong)}. Nothing removable: {len(nothing)}. Equal, but the "
        f"negative control showed nothing: {len(blind)}.",
        f"Removable share of parameters, traced models: median {middle(shares):.1f} %, "
        f"at least 90 % in {of([s for s in shares if s >= 90], shares)}.",
        f"ONNX Runtime agrees within 1e-4: {of(agreed, onnx)} of the sample.",
        *other_lines(records),
    )


def other_lines(records: Sequence[Record]) -> tuple[str, ...]:
    """Torch-Pruning's counts, and the speed of both."""

    def number(holds: Callable[[Record], object]) -> str:
        return of([r for r in records if holds(r.get("tp", {}))], records)

    return (
        f"Torch-Pruning on the same models: dependency graph built for "
        f"{number(lambda tp: tp.get('built'))}, something pruned and the result runs for "
        f"{of([r for r in records if pruned_by_other(r)], records)}, equal for "
        f"{number(lambda tp: tp.get('equal'))}.",
        speed_line("Both run", [r for r in records if exact(r) and ratio(r)]),
        speed_line("Both equal", [r for r in records if exact(r) and r.get("tp", {}).get("equal")]),
    )


def speed_line(which: str, records: Iterable[Record]) -> str:
    """Geometric means of the ratios of seconds."""
    pairs = [(ratio(r), ratio(r, with_trace=True)) for r in records]
    without, whole = (geometric_mean([p[i] or 0.0 for p in pairs if p[i]]) for i in (0, 1))
    return (
        f"{which} ({len(pairs)} models): (analysis + rewrite) / (Torch-Pruning's build + prune), "
        f"geometric mean {without:.2f}; with tracing {whole:.2f}."
    )


def of(part: Sequence[object], whole: Sequence[object]) -> str:
    """``3 of 4 (75.0 %)``."""
    share = f" ({100 * len(part) / len(whole):.1f} %)" if whole else ""
    return f"{len(part)} of {len(whole)}{share}"


def middle(values: Sequence[float]) -> float:
    """The median; not a number if there are none."""
    return statistics.median(values) if values else math.nan
