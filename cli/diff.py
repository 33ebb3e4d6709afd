"""``vibfx diff``: two plans side by side."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vibfx.cli.plan_tables import show_diff
from vibfx.plan_diff import diff as compare
from vibfx.planning import PruningPlan


def diff(
    first: Annotated[Path, typer.Argument(help="A plan.json.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same architecture.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Show where two plans differ: what each keeps of every group, and how much both keep."""
    found = compare(PruningPlan.load(first), PruningPlan.load(second))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        show_diff(found, (str(first), str(second)), Console())
