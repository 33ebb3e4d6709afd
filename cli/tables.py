"""A report as tables."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.report import Report


def show_report(report: Report, out: Path, console: Console) -> None:
    """Print what a compression did: layer by layer, then in all, then where the files are."""
    console.print(_layers(report))
    console.print(_totals(report))
    lost = 100 * (report.before.accuracy - report.after.accuracy)
    console.print(
        f"Rewrite proved equal in float64 (relative error {report.equivalence_error:.1e}); "
        f"ONNX Runtime agrees within {report.parity:.1e}.",
        highlight=False,
    )
    console.print(
        f"Accuracy {'lost' if lost >= 0 else 'gained'}: {abs(lost):.2f} points "
        f"({100 * report.accuracy_before_fine_tune:.2f} % before the fine-tune).",
        highlight=False,
    )
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
        ("test accuracy", _percent(before.accuracy), _percent(after.accuracy), None),
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


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"
