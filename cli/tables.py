"""A report as tables."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.output_folder import FILES
from vibfx.report import Report
from vibfx.training.evaluation import Score


def show_report(report: Report, out: Path, console: Console) -> None:
    """Print what a compression did: layer by layer, then in all, then where the files are."""
    console.print(_layers(report))
    console.print(_totals(report))
    if report.variants:
        console.print(_variants(report))
    console.print(
        f"Rewrite proved equal in float64 (relative error {report.equivalence_error:.1e}); "
        f"ONNX Runtime agrees within {report.parity:.1e}.",
        highlight=False,
    )
    if report.after.any_size:
        console.print("The ONNX file takes images of any height and width that the model takes.")
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
    onnx, *others = FILES
    files = [onnx, *(v.file for v in report.variants if not v.problem), *others]
    console.print(f"Written to {escape(str(out))}: {', '.join(files)}", soft_wrap=True)


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
            percent(layer.weights_after / layer.weights_before),
            percent(layer.flops_after / layer.flops_before),
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
        ("ONNX file", file_size(before.onnx_bytes), file_size(after.onnx_bytes), None),
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
        table.add_row(name, old, new, "" if share is None else percent(share))
    return table


def _variants(report: Report) -> Table:
    after = report.after
    table = Table(title="in other precisions")
    table.add_column("")
    for title in ("file", "test accuracy", "latency, 1 thread"):
        table.add_column(title, justify="right")
    table.add_column("stays in float32")
    table.add_row(
        "float32", file_size(after.onnx_bytes), _right(after.score), _ms(after.latency_ms)
    )
    for variant in report.variants:
        if variant.problem:
            table.add_row(variant.precision, "not written", "", "", escape(variant.problem))
            continue
        table.add_row(
            variant.precision,
            file_size(variant.bytes),
            _right(variant.score),
            _ms(variant.latency_ms),
            ", ".join(f"{name} {count}" for name, count in variant.in_float.items()),
        )
    return table


def _right(score: Score) -> str:
    return "" if score.accuracy is None else percent(score.accuracy)


def _scores(before: Score, after: Score) -> list[tuple[str, str, str, None]]:
    """What can be said of both networks on the test set."""
    rows = []
    if before.accuracy is not None and after.accuracy is not None:
        rows.append(("test accuracy", percent(before.accuracy), percent(after.accuracy), None))
    elif before.loss is not None and after.loss is not None:
        rows.append(("test loss", f"{before.loss:.4g}", f"{after.loss:.4g}", None))
    return rows


def _quality(report: Report) -> Iterator[str]:
    before, after = report.before.score, report.after.score
    if before.accuracy is not None and after.accuracy is not None:
        lost = 100 * (before.accuracy - after.accuracy)
        yield f"Accuracy {'lost' if lost >= 0 else 'gained'}: {abs(lost):.2f} points."
    if after.agreement is not None:
        yield f"Of the test examples, {percent(after.agreement)} get the original's answer."
    elif after.error is not None:
        yield f"The outputs explain {percent(1 - after.error)} of the original's variance."
    if after.accuracy is None and after.loss is None:
        yield "There were no labels: what was learnt are the original's outputs."
    phases = [
        f"{_score(phase.validation)} after {phase.name}" + ("" if phase.kept else " (not kept)")
        for phase in report.phases
    ]
    yield f"On the validation split: {', '.join(phases)}."


def _score(score: Score) -> str:
    if score.accuracy is not None:
        return f"accuracy {percent(score.accuracy)}"
    if score.loss is not None:
        return f"loss {score.loss:.4g}"
    return f"relative error {score.error:.3g}"


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.2f} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def file_size(size: int) -> str:
    """A number of bytes, to be read."""
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"
