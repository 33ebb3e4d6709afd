"""Progress of a compression, live in the terminal."""

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from vibfx.training.meter import Progress as State

# Less waiting than this is no bottleneck.
_WORTH_MENTIONING = 0.1


class LiveProgress:
    """Shows stages as they begin, and a line of figures while training.

    Args:
        console: Where to show it; where that is no terminal, only stages and ends are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            # In a narrow terminal the figures go on in a second line.
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, overflow="fold")),
            expand=True,
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._last: State | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._end()
        self._bar.stop()

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._end()
        self._task = self._bar.add_task(name, total=None, figures="")

    def progress(self, state: State) -> None:
        """Training has come further."""
        if self._task is None:
            return
        self._last = state
        self._bar.update(
            self._task, total=1.0, completed=state.done, figures=_figures(state, running=True)
        )

    def _end(self) -> None:
        if self._task is None:
            return
        name = self._bar.tasks[-1].description
        figures = f"  {_figures(self._last, running=False)}" if self._last else ""
        self._bar.remove_task(self._task)
        self._console.print(f"[green]✓[/] {name}{figures}", highlight=False)
        self._task, self._last = None, None


def _figures(state: State, *, running: bool) -> str:
    parts = [
        f"epoch {state.epoch}/{max(state.epochs, state.epoch)}",
        f"loss {state.loss:.3f}",
    ]
    if not math.isnan(state.accuracy):  # the labels are classes
        parts.append(f"accuracy {100 * state.accuracy:.1f} %")
    if state.units:
        parts.append(f"units {state.units_left:,}/{state.units:,}")
        parts.append(f"FLOPs {100 * state.flops_left:.0f} %")
    if running:
        parts.append(f"{state.rate:,.0f}/s")
        if state.waiting >= _WORTH_MENTIONING:
            parts.append(f"{100 * state.waiting:.0f} % waiting for data")
        parts.append(f"{_clock(state.seconds_left)} left")
    return "[dim] · [/]".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
