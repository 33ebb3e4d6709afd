"""A report as tables."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.report import Report
from vibfx.training.evaluation import Score


def show_report(report: Report, out: Path, console: Console) -> None:
    """Print what a compression did: layer by layer, then in all, then where the files are."""
    console.print(_layers(report))
    console.print(_totals(report))
    console.print(
        f"Rewrite proved equal in float64 (relative error {report.equivalence_error:.1e}); "
        f"ONNX Runtime agrees within {report.parity:.1e}.",
        highlight=False,
    )
    for line in _quality(report):
        console.print(line, highlight=False)
    if report.caution:
        console.print(f"[yellow]{escape(report.caution)}[/]", highlight=False)
    if report.interrupted:
        console.print("[yellow]Training was interrupted; this is what there was by then.[/]")
    if report.after.latency_ms > report.before.latency_ms:
        console.print(
            "[yellow]The compressed network is not faster in ONNX Runtime on this machine.[/]"
        )
    console.print(
        f"Written to {escape(str(out))}: model.onnx, model.pt2, plan.json, report.json",
        soft_wrap=True,
    )


def _layers(report: Report) -> Table:
    title = f"{report.model} on {report.data}, target {report.target}"
    table = Table(title=escape(title))
    table.add_column("layer")
    for title in ("width", "", "weights", "", "left", "FLOPs left"):
        table.add_column(title, justify="right")
    for layer in report.layers:
        table.add_row(
            escape(layer.name),
            f"{layer.width_before:,}",
            f"→ {layer.width_after:,}",
            f"{layer.weights_before:,}",
            f"→ {layer.weights_after:,}",
            _percent(layer.weights_after / layer.weights_before),
            _percent(layer.flops_after / layer.flops_before),
        )
    return table


def _totals(report: Report) -> Table:
    before, after, shares = report.before, report.after, report.shares
    table = Table(title="in all")
    for title in ("", "before", "after", "left"):
        table.add_column(title, justify="left" if not title else "right")
    rows = [
        ("parameters", _count(before.parameters), _count(after.parameters), shares.params),
        ("weights (r_W)", _count(before.weights), _count(after.weights), shares.r_w),
        ("FLOPs", _count(before.flops), _count(after.flops), shares.flops),
        ("feature maps (r_N)", _count(before.features), _count(after.features), shares.r_n),
        ("ONNX file", _bytes(before.onnx_bytes), _bytes(after.onnx_bytes), None),
        ("ONNX nodes", str(before.onnx_nodes), str(after.onnx_nodes), None),
        *_scores(before.score, after.score),
        ("latency, 1 thread", _ms(before.latency_ms), _ms(after.latency_ms), None),
    ]
    ratios = {
        "ONNX file": after.onnx_bytes / before.onnx_bytes,
        "latency, 1 thread": after.latency_ms / before.latency_ms,
    }
    for name, old, new, share in rows:
        share = ratios.get(name) if share is None else share
        table.add_row(name, old, new, "" if share is None else _percent(share))
    return table


def _scores(before: Score, after: Score) -> list[tuple[str, str, str, None]]:
    """What can be said of both networks on the test set."""
    rows = []
    if before.accuracy is not None and after.accuracy is not None:
        rows.append(("test accuracy", _percent(before.accuracy), _percent(after.accuracy), None))
    elif before.loss is not None and after.loss is not None:
        rows.append(("test loss", f"{before.loss:.4g}", f"{after.loss:.4g}", None))
    return rows


def _quality(report: Report) -> Iterator[str]:
    before, after = report.before.score, report.after.score
    if before.accuracy is not None and after.accuracy is not None:
        lost = 100 * (before.accuracy - after.accuracy)
        yield f"Accuracy {'lost' if lost >= 0 else 'gained'}: {abs(lost):.2f} points."
    if after.agreement is not None:
        yield f"Of the test examples, {_percent(after.agreement)} get the original's answer."
    elif after.error is not None:
        yield f"The outputs explain {_percent(1 - after.error)} of the original's variance."
    if after.accuracy is None and after.loss is None:
        yield "There were no labels: what was learnt are the original's outputs."
    phases = [
        f"{_score(phase.validation)} after {phase.name}" + ("" if phase.kept else " (not kept)")
        for phase in report.phases
    ]
    yield f"On the validation split: {', '.join(phases)}."


def _score(score: Score) -> str:
    if score.accuracy is not None:
        return f"accuracy {_percent(score.accuracy)}"
    if score.loss is not None:
        return f"loss {score.loss:.4g}"
    return f"relative error {score.error:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"
