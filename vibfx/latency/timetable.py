"""What a graph's layers, and the whole of it, take on this machine: measured once, then known."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import fx

from vibfx.latency.cache import Cache
from vibfx.latency.kernels import Kernel
from vibfx.latency.layout import Layout
from vibfx.latency.micro_benchmarks import Whole, channel_block, measure_layers, measure_whole
from vibfx.latency.table import Free, LayerTimes, Measure, measure_layer

Times = TypeVar("Times", LayerTimes, Whole)

_log = logging.getLogger(__name__)

# Raised whenever what is measured, or how, changes: what was kept is then measured anew.
_FORMAT = 2


@dataclass(frozen=True)
class Timetable:
    """What was measured.

    Attributes:
        layers: For each of a graph's layers what it takes.
        whole: What the graph takes.
        block: How many channels the runtime puts into a block.
    """

    layers: tuple[LayerTimes, ...]
    whole: Whole
    block: int


def timetable(
    module: fx.GraphModule,
    layout: Layout,
    *,
    cache: Cache | None = None,
    block: int | None = None,
    layers: Measure = measure_layers,
    whole: Callable[[fx.GraphModule], Whole] = measure_whole,
) -> Timetable:
    """Measure a graph on this machine, or read what is known of it.

    Args:
        module: The graph.
        layout: What of it takes time.
        cache: What is known; by default the user's.
        block: How many channels the runtime puts into a block; by default it is asked.
        layers: What measures layers.
        whole: What measures a graph.

    Raises:
        ExportError: The graph cannot be written as ONNX.
    """
    known = _Known(Cache() if cache is None else cache)
    block = channel_block() if block is None else block
    of = {
        (kernel, free): known.layer(kernel, free, block, layers)
        for kernel, free in zip(layout.kernels, layout.free, strict=True)
    }
    return Timetable(
        layers=tuple(of[key] for key in zip(layout.kernels, layout.free, strict=True)),
        whole=known.whole(module, layout, block, whole),
        block=block,
    )


class _Known:
    """A cache of times, which says once that something has to be measured."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._told = False

    def layer(self, kernel: Kernel, free: Free, block: int, measure: Measure) -> LayerTimes:
        return self._kept(
            f"{kernel} {free} {block}",
            LayerTimes.read,
            lambda: measure_layer(kernel, free, block, measure),
        )

    def whole(
        self,
        module: fx.GraphModule,
        layout: Layout,
        block: int,
        measure: Callable[[fx.GraphModule], Whole],
    ) -> Whole:
        described = f"{layout.kernels} {sorted(layout.elements.values())} {block}"
        name = f"whole {hashlib.sha256(described.encode()).hexdigest()}"
        return self._kept(name, Whole.read, lambda: measure(module))

    def _kept(self, name: str, read: Callable[[Any], Times], measure: Callable[[], Times]) -> Times:
        try:
            return read(self._cache.get(f"{_FORMAT} {name}"))
        except ValueError:
            pass
        if not self._told:
            _log.info("measuring the runtime on this machine")
        self._told = True
        found = measure()
        self._cache.put(f"{_FORMAT} {name}", asdict(found))
        return found
