"""ONNX files as tables: what is in one, and how several compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.benching import FileBench, Timing
from vibfx.cli.tables import file_size, percent
from vibfx.export.description import Description

_LONGEST = 12


def show_benches(rows: Sequence[FileBench], console: Console) -> None:
    """Print what each file is, then how long it takes; ratios are to the first file."""
    names = _names([row.path for row in rows])
    console.print(_files(rows, names))
    console.print(_timings(rows, names))


def show_description(found: Description, console: Console, *, name: str) -> None:
    """Print what is in an ONNX file."""
    table = Table(title=escape(name), show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("")
    for title, values in (("input", found.inputs), ("output", found.outputs)):
        for value in values:
            table.add_row(title, escape(str(value)))
    operators = ", ".join(f"{name} {count}" for name, count in found.operators.items())
    table.add_row("parameters", f"{found.parameters:,}")
    table.add_row("file", file_size(found.bytes))
    table.add_row("operators", f"{operators} (opset {found.opset})")
    for key, value in found.metadata.items():
        table.add_row(key, escape(_text(value)))
    console.print(table)
    if not found.metadata:
        console.print("vibfx did not write this file.", highlight=False)


def _text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    shown = ", ".join(map(str, value[:_LONGEST]))
    return shown if len(value) <= _LONGEST else f"{shown}, ... ({len(value):,} in all)"


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with their folders where the names alone are not enough."""
    names = [path.name for path in paths]
    found = names if len(set(names)) == len(names) else list(map(str, paths))
    return [escape(name) for name in found]


def _files(rows: Sequence[FileBench], names: Sequence[str]) -> Table:
    scores = [row.score for row in rows if row.score is not None]
    table = Table()
    table.add_column("file", overflow="fold")
    for title in ("size", "memory", "differs by"):
        table.add_column(title, justify="right")
    if scores:
        table.add_column("accuracy", justify="right")
        table.add_column("same answer", justify="right")
    for row, name in zip(rows, names, strict=True):
        cells = [file_size(row.bytes)]
        cells.append("unknown" if row.peak_bytes is None else file_size(row.peak_bytes))
        cells.append("" if row is rows[0] else f"{row.difference:.1e}")
        if row.score is not None:
            same = None if row is rows[0] else row.score.agreement
            shares = (row.score.accuracy, same)
            cells += ["" if share is None else percent(share) for share in shares]
        table.add_row(name, *cells)
    return table


def _timings(rows: Sequence[FileBench], names: Sequence[str]) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    for title in ("threads", "batch", "median ms", "95 % ms", "times as fast"):
        table.add_column(title, justify="right")
    for position, first in enumerate(rows[0].timings):
        for row, name in zip(rows, names, strict=True):
            table.add_row(name, *_cells(row.timings[position], first))
        table.add_section()
    return table


def _cells(own: Timing, first: Timing) -> tuple[str, ...]:
    return (
        str(own.threads or "one a core"),
        str(own.batch),
        f"{own.median_ms:.3f}",
        f"{own.p95_ms:.3f}",
        f"{first.median_ms / own.median_ms:.2f}",
    )
