"""Sessions in ONNX Runtime, and how long their runs take."""

import numpy as np
import pytest
import torch
from tasks import graph

from vibfx.export import export_onnx, latencies, runtime
from vibfx.export.runtime import feed, relative_gap, session, timings


@pytest.fixture(scope="module")
def module():
    return graph()


@pytest.fixture(scope="module")
def path(module, tmp_path_factory):
    return export_onnx(module, tmp_path_factory.mktemp("onnx") / "model.onnx").path


def clock(monkeypatch, *ticks):
    ticks = iter(ticks)

    class Clock:
        perf_counter = staticmethod(lambda: next(ticks))

    monkeypatch.setattr(runtime, "time", Clock)


def test_latencies_are_medians_in_milliseconds_one_for_each_file(module, path, monkeypatch):
    rounds = [2.0, 2.0, 2.002, 2.002, 2.006] * 9
    clock(monkeypatch, 0.0, 0.0, 1.0, 1.001, 1.001, 1.003, *rounds)
    assert latencies([path, path], module, seconds=0.5) == pytest.approx([2.0, 4.0])


def test_sessions_take_turns_and_run_five_times_at_least(monkeypatch):
    order = []

    class Session:
        def __init__(self, name):
            self.name = name

        def run(self, names, given):
            order.append((self.name, given["x"]))

    found = timings([Session("a"), Session("b")], [{"x": 1}, {"x": 2}], seconds=0.0)
    assert [len(times) for times in found] == [5, 5]
    assert order == [("a", 1), ("b", 2)] * 6  # once before
    assert all(time >= 0.0 for times in found for time in times)


def test_a_session_has_as_many_threads_as_told_and_is_fed_by_name(path):
    opened = session(path, threads=3)
    assert opened.get_session_options().intra_op_num_threads == 3
    x = torch.ones(2, 1, 8, 8)
    given = feed(opened, [x])
    assert list(given) == ["input"]
    assert opened.run(None, given)[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("wanted", "got", "expected"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([0.0], [0.0], 0.0),
        ([1.0], [np.nan], np.inf),
        ([], [], 0.0),
        ([3], [4], 1 / 3),
    ],
)
def test_the_gap_is_relative_to_the_largest(wanted, got, expected):
    assert relative_gap(np.array(wanted), np.array(got)) == pytest.approx(expected)
