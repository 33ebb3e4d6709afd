"""What a plan did, and where two plans differ, as tables."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.applying import Applied
from vibfx.plan_diff import PlanDiff


def show_applied(result: Applied, out: Path, console: Console) -> None:
    """Print what is left of a module, how closely it was proved, and where it is."""
    before, after = result.before, result.after
    table = Table(title=escape(type(result.module).__name__))
    table.add_column("")
    for title in ("before", "after", "left"):
        table.add_column(title, justify="right")
    for name, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("FLOPs", before.flops, after.flops),
    ):
        share = f"{100 * new / old:.2f} %" if old else ""
        table.add_row(name, f"{old:,.0f}", f"{new:,.0f}", share)
    console.print(table)
    console.print(
        f"Proved equal to the cut graph (relative error {result.error:.1e}).", highlight=False
    )
    console.print(f"Written: {out}", markup=False, highlight=False, soft_wrap=True)


def show_diff(found: PlanDiff, names: tuple[str, str], console: Console) -> None:
    """Print what two plans keep of every group, and which parameters only one of them cuts."""
    table = Table(title=escape(" and ".join(names)))
    table.add_column("group")
    for title in ("units", "kept by the first", "by the second", "by both"):
        table.add_column(title, justify="right")
    for group in found.groups:
        counts = (group.units, group.first, group.second, group.both)
        table.add_row(escape(group.name), *(f"{count:,}" for count in counts))
    console.print(table)
    for which, only in (("first", found.only_first), ("second", found.only_second)):
        if only:
            console.print(
                f"Cut by the {which} only: {', '.join(only)}", markup=False, highlight=False
            )
    if all(g.first == g.second == g.both for g in found.groups):
        console.print("Both keep the same.")
