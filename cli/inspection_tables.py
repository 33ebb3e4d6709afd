"""An inspection as tables."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vibfx.frozen import Cause, FrozenDimension
from vibfx.inspection import GroupSummary, Inspection

# What is shown of long lists unless everything is asked for.
_GROUPS, _REASONS, _NAMES = 20, 12, 4


def show_inspection(
    inspection: Inspection, console: Console, *, name: str, everything: bool = False
) -> None:
    """Print what can be removed: the groups, largest share first, what stays, and the totals.

    Args:
        inspection: What was found.
        console: Where to print it.
        name: What to call the model.
        everything: Whether to print long lists in full.
    """
    if inspection.groups:
        _show_groups(inspection, console, name, everything)
    show_frozen(inspection, console, everything=everything)
    _show_totals(inspection, console)


def show_frozen(inspection: Inspection, console: Console, *, everything: bool = False) -> None:
    """Print what stays, the most indices first.

    One row for each reason, or one for each place where it arises if everything is asked for.
    """
    found = [[cause] for cause in inspection.causes]
    if not everything:
        found = _by_reason(inspection.causes)
    found.sort(key=_indices, reverse=True)
    shown = found if everything else found[:_REASONS]
    if not shown:
        return
    table = Table(title="what stays")
    table.add_column("parameters", ratio=5, overflow="fold")
    table.add_column("indices", justify="right", no_wrap=True)
    table.add_column("because", ratio=6, overflow="fold")
    for causes in shown:
        for rows in _by_size(row for cause in causes for row in cause.rows):
            table.add_row(
                escape(_what(rows, everything)),
                f"{rows[0].count:,} of {rows[0].size:,}",
                _because(causes),
            )
    console.print(table)
    _note(len(found) - len(shown), "reason", console)


def _show_groups(inspection: Inspection, console: Console, name: str, everything: bool) -> None:
    groups = sorted(inspection.groups, key=lambda group: group.params, reverse=True)
    shown = groups if everything else groups[:_GROUPS]
    table = Table(title=f"{escape(name)}: channels that go together")
    table.add_column("made by", ratio=1, overflow="fold")
    table.add_column("read by", ratio=1, overflow="fold")
    for title in ("units", "gates", "params", "FLOPs"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in shown:
        table.add_row(
            escape(_makers(group, everything)),
            escape(_listed(group.reads, everything)),
            f"{group.units:,}",
            str(len(group.sites)),
            _percent(group.params),
            _percent(group.flops),
        )
    console.print(table)
    _note(len(groups) - len(shown), "group", console)


def _show_totals(inspection: Inspection, console: Console) -> None:
    totals = inspection.totals
    table = Table(title="in all")
    for title in ("", "count", "removable"):
        table.add_column(title, justify="right" if title else "left")
    table.add_row("parameters", f"{totals.parameters:,}", _percent(totals.removable_params))
    table.add_row("FLOPs", f"{totals.flops:,.0f}", _percent(totals.removable_flops))
    table.add_row("units", f"{totals.units:,}", "")
    table.add_row("groups", f"{totals.groups:,}", "")
    console.print(table)
    if any(group.overlaps for group in inspection.groups):
        console.print(
            "The share of a group is what goes if all of its units go. A weight between two "
            "groups counts for both.",
            highlight=False,
        )


def _note(left_out: int, kind: str, console: Console) -> None:
    if left_out > 0:
        many = "" if left_out == 1 else "s"
        console.print(
            f"{left_out} smaller {kind}{many} left out; --all shows everything.", highlight=False
        )


def _makers(group: GroupSummary, everything: bool) -> str:
    """The group by its name, and the other layers that make its channels."""
    others = [layer for layer in group.joined if layer in group.makes or not group.makes]
    return _listed([group.name, *(n for n in others if n != group.name)], everything)


def _listed(names: Sequence[str], everything: bool) -> str:
    left_out = 0 if everything else len(names) - _NAMES
    # To write "and 1 more" takes the place of the one.
    if left_out <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMES])} and {left_out} more"


def _what(rows: Sequence[FrozenDimension], everything: bool) -> str:
    """What stays at the cause itself, then what stays along with it."""
    here = [_dimension(row) for row in rows if not row.through]
    tied = [_dimension(row) for row in rows if row.through]
    parts = [_listed(here, everything)] if here else []
    if tied:
        names = list(dict.fromkeys(layer for row in rows for layer in row.through))
        parts.append(f"with {_listed(names, everything)}: {_listed(tied, everything)}")
    return "\n".join(parts)


def _dimension(row: FrozenDimension) -> str:
    return f"{row.parameter} dim {row.dim}"


def _by_reason(causes: Sequence[Cause]) -> list[list[Cause]]:
    found: dict[str, list[Cause]] = {}
    for cause in causes:
        found.setdefault(cause.reason, []).append(cause)
    return list(found.values())


def _by_size(rows: Iterable[FrozenDimension]) -> list[list[FrozenDimension]]:
    found: dict[tuple[int, int], list[FrozenDimension]] = {}
    for row in rows:
        found.setdefault((row.count, row.size), []).append(row)
    return list(found.values())


def _because(causes: Sequence[Cause]) -> str:
    places = [cause.where for cause in causes if cause.where]
    more = f" and {len(places) - 1} more places" if len(places) > 1 else ""
    place = f"\n[dim]at {escape(places[0])}{more}[/]" if places else ""
    return f"{escape(causes[0].reason)}{place}"


def _indices(causes: Sequence[Cause]) -> int:
    return sum(row.count for cause in causes for row in cause.rows)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
