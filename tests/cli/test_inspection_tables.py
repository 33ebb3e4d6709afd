"""The tables on the screen: groups by size, reasons gathered, lists cut and said to be."""

import io
import re
from dataclasses import replace

from couplings import OUTPUT
from inspections import lenet_inspection, residual_inspection
from rich.console import Console

from vibfx.cli.inspection_tables import show_frozen, show_inspection
from vibfx.frozen import FrozenDimension


def shown(inspection, **options):
    console = Console(record=True, width=140, file=io.StringIO())
    show_inspection(inspection, console, name="net.pt", **options)
    return console.export_text()


def rows(text):
    """The cells of all tables' lines, without what stands around them."""
    return [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]


def words(text):
    return " ".join(text.split())


def test_groups_largest_first_with_their_shares():
    found = rows(shown(lenet_inspection()))
    assert ["made by", "read by", "units", "gates", "params", "FLOPs"] in found
    groups = [row for row in found if len(row) == 6 and row[2].isdigit()]
    assert groups == [
        ["2", "5", "50", "1", "98.60 %", "87.22 %"],
        ["5", "7", "500", "1", "94.07 %", "17.66 %"],
        ["0", "2", "20", "1", "5.92 %", "82.34 %"],
    ]


def test_all_makers_of_a_residual_stream_are_named():
    found = rows(shown(residual_inspection()))
    assert ["stem, last", "wide, head", "4"] in [row[:3] for row in found]


def test_totals_and_what_a_share_means():
    text = shown(lenet_inspection())
    assert ["parameters", "431,080", "100.00 %"] in rows(text)
    assert ["FLOPs", "2,293,000", "100.00 %"] in rows(text)
    assert ["units", "570", ""] in rows(text)
    assert "A weight between two groups counts for both." in words(text)
    assert "left out" not in text


def test_a_reason_names_what_is_tied_and_where_it_arises():
    text = shown(residual_inspection(both=True))
    found = rows(text)
    (place,) = [number for number, row in enumerate(found) if row[2:] == [OUTPUT]][:1]
    assert found[place + 1][2] == "at output"
    assert "with last, stem: norm.weight dim 0, norm.bias dim 0" in words(
        " ".join(row[0] for row in found if len(row) == 3)
    )


def test_long_lists_are_shortened_unless_everything_is_asked_for():
    inspection = lenet_inspection()
    many = replace(inspection, groups=inspection.groups * 10)
    assert "10 smaller groups left out; --all shows everything." in shown(many)
    assert "left out" not in shown(many, everything=True)
    assert sum(len(row) == 6 for row in rows(shown(many, everything=True))) == 31


def test_places_of_one_reason_are_gathered_unless_everything_is_asked_for():
    row = FrozenDimension("a.weight", "a", 0, 4, 4, "makes", "an op", "op in a", ())
    inspection = replace(
        lenet_inspection(),
        frozen=tuple(
            replace(row, parameter=f"{name}.weight", where=f"op in {name}") for name in "abcdef"
        ),
    )
    assert "at op in a and 5 more places" in shown(inspection)
    assert "c.weight dim 0, d.weight dim 0 and 2 more" in shown(inspection)
    full = shown(inspection, everything=True)
    assert "more" not in full
    assert all(f"at op in {name}" in full for name in "abcdef")


def test_brackets_in_names_are_shown_as_they_are():
    row = FrozenDimension("[a].weight", "[a]", 0, 4, 4, "makes", "no [red]", "op [b]", ("[c]",))
    console = Console(record=True, width=140, file=io.StringIO())
    show_frozen(replace(lenet_inspection(), frozen=(row,)), console)
    text = console.export_text()
    for part in ("with [c]: [a].weight dim 0", "no [red]", "at op [b]"):
        assert part in text
