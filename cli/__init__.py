"""The command line: one command a file."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from vibfx.cli.apply import apply
from vibfx.cli.bench import bench
from vibfx.cli.compress import compress
from vibfx.cli.demo import demo
from vibfx.cli.diff import diff
from vibfx.cli.inspect import inspect
from vibfx.errors import VibfxError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Make a trained PyTorch network smaller and faster, and prove that the result is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(compress)
app.command()(inspect)
app.command()(apply)
app.command()(diff)
app.command()(bench)
app.command()(demo)

_INTERRUPTED = 130


def main() -> None:
    """Run a command; an error that vibfx foresees is one message and an exit code."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app()
    except VibfxError as error:
        errors.print(f"[bold red]error:[/] {escape(error.what)}")
        if error.where:
            errors.print(f"  [dim]at[/] {escape(error.where)}")
        if error.hint:
            errors.print(f"  {escape(error.hint)}")
        sys.exit(error.exit_code)
    except SystemExit as end:
        # typer turns Ctrl-C into this exit code, without a word.
        if end.code == _INTERRUPTED:
            errors.print("interrupted; nothing was written")
        raise
