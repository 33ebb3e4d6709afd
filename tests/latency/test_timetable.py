"""Measured once, then known; what is damaged is measured anew."""

import pytest
from fake_runtime import BLOCK, Memory, fake_times, measured
from networks import gated, lenet, traced

import vibfx
from vibfx.latency.cache import Cache
from vibfx.latency.layout import Layout
from vibfx.latency.micro_benchmarks import Whole
from vibfx.latency.timetable import timetable


class Counting:
    def __init__(self):
        self.layers = self.wholes = 0

    def of_layers(self, points):
        self.layers += 1
        return measured(points)

    def of_whole(self, _):
        self.wholes += 1
        return Whole(1.0, 2.0)


@pytest.fixture(scope="module")
def graph():
    return traced(lenet(), (1, 28, 28))


def read(graph, cache):
    counting, coupling = Counting(), vibfx.analyze(graph)
    _, times = fake_times(
        graph, coupling, cache=cache, layers=counting.of_layers, whole=counting.of_whole
    )
    return times, (counting.layers, counting.wholes)


def test_the_second_time_nothing_is_measured(graph, tmp_path):
    first, measurements = read(graph, Cache(tmp_path))
    assert measurements == (5, 1)  # one convolution in blocks, one also beside them, two products
    again, measurements = read(graph, Cache(tmp_path))
    assert measurements == (0, 0)
    assert again == first
    assert first.whole == Whole(1.0, 2.0)


def test_with_gates_a_graph_is_the_same_one(graph):
    cache = Memory()
    plain, _ = read(graph, cache)
    with_gates, measurements = read(gated(graph), cache)
    assert measurements == (0, 0)
    assert with_gates == plain


def test_a_damaged_file_and_damaged_entries_are_measured_anew(graph, tmp_path):
    first, all_of_it = read(graph, Cache(tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-100])
    assert read(graph, Cache(tmp_path)) == (first, all_of_it)
    cache = Cache(tmp_path)
    name = next(name for name in cache._known if "whole" in name)
    cache.put(name, {"kernels": 1.0})
    assert read(graph, Cache(tmp_path)) == (first, (0, 1))
    assert read(graph, Cache(tmp_path)) == (first, (0, 0))


def test_the_user_is_told_once_and_only_where_something_is_measured(graph, caplog):
    caplog.set_level("INFO", logger="vibfx")
    cache = Memory()
    read(graph, cache)
    assert [r.message for r in caplog.records] == ["measuring the runtime on this machine"]
    read(graph, cache)
    assert len(caplog.records) == 1


def test_another_block_is_measured_anew(graph):
    cache, coupling = Memory(), vibfx.analyze(graph)
    fake_times(graph, coupling, cache=cache)
    counting = Counting()
    layout = Layout.of(graph, coupling)
    given = {"layers": counting.of_layers, "whole": counting.of_whole}
    assert timetable(graph, layout, cache=cache, block=BLOCK // 2, **given).block == BLOCK // 2
    assert counting.wholes == 1
