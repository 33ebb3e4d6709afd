"""Times that are known without measuring any: of one kernel of the runtime beside another.

The unit is what a multiply-accumulate takes in a convolution that works in blocks. Only ratios of
such times say anything.
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import fx

from vibfx.coupling import Coupling
from vibfx.latency.kernels import Kernel, Widths
from vibfx.latency.layout import Layout
from vibfx.latency.micro_benchmarks import Point, Taken, Whole, channel_block, elements_read
from vibfx.latency.model import LatencyModel
from vibfx.latency.table import measure_layer
from vibfx.latency.timetable import Timetable

# What a multiply-accumulate takes of a convolution that reads few channels without blocks, and of
# one that cannot work in blocks; measured with ONNX Runtime 1.31 on AVX-512, rounded.
_DIRECT, _PLAIN = 1.3, 2.0

# What an element takes that is computed, and one that is laid out anew.
_RESULT, _REORDERED = 20.0, 40.0


def nominal_latency(module: fx.GraphModule, coupling: Coupling) -> LatencyModel:
    """A model of the latency for which nothing is measured, in no unit of time.

    Args:
        module: A graph, gated or not.
        coupling: What ``analyze`` found in it.
    """
    layout, block = Layout.of(module, coupling), channel_block()
    taken = partial(_taken, block=block)
    layers = tuple(
        measure_layer(kernel, free, block, taken)
        for kernel, free in zip(layout.kernels, layout.free, strict=True)
    )
    full = sum(each.kernel for each in taken([(k, k.full) for k in layout.kernels]))
    counts = layout.counts.of(np.ones(layout.units, dtype=bool))
    total = full + _RESULT * sum(
        size * counts[list(rows)].prod() for rows, size in layout.elements.items()
    )
    return LatencyModel(layout, Timetable(layers, Whole(total, total), block))


def _taken(points: Sequence[Point], block: int) -> list[Taken]:
    return [
        Taken(_time(kernel, widths, block), _REORDERED * elements_read(kernel, widths))
        for kernel, widths in points
    ]


def _time(kernel: Kernel, widths: Widths, block: int) -> float:
    blocks, attributes = kernel.blocks(block), dict(kernel.attributes)
    strides = attributes.get("strides", (1,) * len(kernel.space))
    places = math.prod(
        -(-size // stride) for size, stride in zip(kernel.space, strides, strict=True)
    )
    each = places * math.prod(kernel.shape[2:])
    rate, (first, second) = 1.0, widths
    if not blocks.hold(widths):
        rate = _PLAIN
    elif second < blocks.direct:
        rate, first = _DIRECT, _up(first, blocks.steps[0])
    else:
        first, second = map(_up, widths, blocks.steps)
    return rate * each * first * second + _RESULT * places * first


def _up(width: int, step: int) -> int:
    return step * -(-width // step)
