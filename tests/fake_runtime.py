"""A runtime whose times are known: what stands in for measurements."""

from vibfx.latency.layout import Layout
from vibfx.latency.micro_benchmarks import Taken, Whole, elements_read
from vibfx.latency.timetable import timetable

BLOCK = 16
REORDER = 1e-3
NOTHING = Whole(0.0, 0.0)


def time_of(kernel, widths):
    """A thousandth of the weight's size; half as much again where it is not in blocks."""
    slower = 1.0 if kernel.blocks(BLOCK).hold(widths) else 1.5
    return slower * widths[0] * widths[1] / 1000


def measured(points):
    return [
        Taken(
            time_of(kernel, widths),
            REORDER * elements_read(kernel, widths) * kernel.blocks(BLOCK).hold(widths),
        )
        for kernel, widths in points
    ]


class Memory:
    """A cache that forgets when the test ends."""

    def __init__(self):
        self.known = {}

    def get(self, name):
        return self.known.get(name)

    def put(self, name, value):
        self.known[name] = value


def fake_times(module, coupling, **given):
    """The layout of a graph, and times of it; what is given stands in for what is made up here."""
    layout = Layout.of(module, coupling)
    fields = {"cache": Memory(), "block": BLOCK, "layers": measured, "whole": lambda _: NOTHING}
    return layout, timetable(module, layout, **fields | given)
