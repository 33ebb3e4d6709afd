"""One picture of all results: how much can go, and how long that takes to find out."""

from collections.abc import Sequence
from itertools import groupby

from drawing import INK, Axis, Drawing, log_axis

from zoo.progress import Record
from zoo.summary import exact, ratio

STEP = 4.0
LEFT, RIGHT, TOP, PANEL, GAP, BOTTOM = 60.0, 20.0, 34.0, 180.0, 44.0, 90.0
EXACT, OTHER, FASTER, SLOWER = "#2a7f62", "#c9a227", "#2a7f62", "#b5482e"


def picture(records: Sequence[Record]) -> str:
    """Two panels over one axis of models, as SVG."""
    width = LEFT + RIGHT + STEP * max(len(records), 60)
    drawing = Drawing(width, TOP + 2 * PANEL + GAP + BOTTOM)
    draw_shares(drawing, records, TOP)
    draw_ratios(drawing, records, TOP + PANEL + GAP)
    draw_families(drawing, records)
    return drawing.svg()


def draw_shares(drawing: Drawing, records: Sequence[Record], top: float) -> None:
    """A bar a model; a model that was not traced has none."""
    axis = Axis(0, 100, top + PANEL, top)
    drawing.text(LEFT, top - 10, "Removable share of parameters, % (green: cut and proved exact)")
    for value in (0, 25, 50, 75, 100):
        rule(drawing, axis, value, f"{value}")
    for number, record in enumerate(records):
        if "removable" in record:
            share = 100 * record["removable"]
            y = axis.at(share)
            color = EXACT if exact(record) else OTHER
            title = f"{record['name']}: {share:.1f} %"
            drawing.box(LEFT + STEP * number, y, STEP - 1, top + PANEL - y, color, title)


def draw_ratios(drawing: Drawing, records: Sequence[Record], top: float) -> None:
    """A dot a model that both could do."""
    rates = {number: rate for number, record in enumerate(records) if (rate := ratio(record))}
    axis = log_axis(list(rates.values()), top + PANEL, top)
    drawing.text(LEFT, top - 10, "(analysis + rewrite) / (Torch-Pruning's build + prune), seconds")
    for value in axis.decades():
        rule(drawing, axis, value, f"{value:g}")
    for number, rate in rates.items():
        color = FASTER if rate <= 1 else SLOWER
        title = f"{records[number]['name']}: {rate:.2f}"
        drawing.dot(LEFT + STEP * (number + 0.5), axis.at(rate), color, title)


def rule(drawing: Drawing, axis: Axis, value: float, label: str) -> None:
    """A horizontal line with its value."""
    y = axis.at(value)
    drawing.line(LEFT, y, drawing.width - RIGHT, y)
    drawing.text(LEFT - 6, y + 4, label, "end")


def draw_families(drawing: Drawing, records: Sequence[Record]) -> None:
    """Where each family starts, and its name below."""
    bottom = TOP + 2 * PANEL + GAP
    start = 0
    for family, rows in groupby(records, key=lambda r: str(r["family"])):
        x = LEFT + STEP * start
        drawing.line(x, TOP, x, bottom + 6, INK)
        drawing.text(x + 4, bottom + 14, family, turn=45)
        start += len(list(rows))
