"""Real measurements, small ones, of which only rough relations are asserted."""

import pytest
from networks import traced
from torch import nn

from vibfx.latency import micro_benchmarks
from vibfx.latency.kernels import Kernel
from vibfx.latency.micro_benchmarks import (
    Whole,
    channel_block,
    elements_read,
    measure_layers,
    measure_whole,
)

ATTRIBUTES = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (1, 1)))
CONVOLUTION = Kernel("Conv", (28, 28), ATTRIBUTES, (64, 64, 3, 3))


def test_four_times_the_work_takes_longer_and_odd_widths_are_not_reordered():
    small, large, odd = measure_layers([(CONVOLUTION, w) for w in ((32, 32), (64, 64), (64, 31))])
    assert 0 < 2 * small.kernel < large.kernel
    assert odd.kernel > 0
    assert odd.reorder == 0
    assert (large.reorder > 0) == (channel_block() > 1)


@pytest.mark.parametrize(
    ("kernel", "widths", "elements"),
    [
        (Kernel("Gemm", (1,), (), (40, 30)), (20, 10), 10),
        (Kernel("Gemm", (1,), (), (30, 40), reads=0), (10, 20), 10),
        (Kernel("MatMul", (7,), (), (40, 30)), (20, 10), 70),
        (Kernel("MatMul", (7,), (), (30, 40), reads=0), (10, 20), 70),
        (Kernel("Conv", (9,), (("kernel_shape", (3,)),), (8, 1, 3), groups=8), (6, 1), 54),
        (Kernel("Conv", (9,), (("kernel_shape", (3,)),), (8, 4, 3), groups=2), (6, 2), 36),
        (
            Kernel("ConvTranspose", (5, 5), (("kernel_shape", (3, 3)),), (6, 8, 3, 3), reads=0),
            (4, 3),
            100,
        ),
    ],
)
def test_every_operator_can_be_measured(kernel, widths, elements):
    assert elements_read(kernel, widths) == elements
    (taken,) = measure_layers([(kernel, widths)])
    assert taken.kernel >= 0


def test_what_does_not_fit_into_memory_at_once_is_measured_in_turn(monkeypatch):
    monkeypatch.setattr(micro_benchmarks, "_AT_ONCE", 1)
    batches = []
    turns = micro_benchmarks._taking_turns
    monkeypatch.setattr(
        micro_benchmarks, "_taking_turns", lambda points: batches.append(points) or turns(points)
    )
    points = [(Kernel("Gemm", (1,), (), (8, 8)), (width, 8)) for width in (2, 4, 8)]
    assert len(measure_layers(points)) == 3
    assert batches == [[point] for point in points]


def test_a_block_is_a_power_of_two():
    assert channel_block() in (1, 4, 8, 16, 32)


def test_a_network_takes_some_time(monkeypatch):
    monkeypatch.setattr(micro_benchmarks, "_SECONDS", 0.1)
    whole = measure_whole(traced(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), (3, 64, 64)))
    assert whole.total > 0
    assert whole.kernels > 0


def test_times_of_a_network_are_read_back_and_others_refused():
    assert Whole.read({"kernels": 1, "total": 2.0}) == Whole(1.0, 2.0)
    for damaged in (None, {}, {"kernels": 1}, {"kernels": "x", "total": 1}, [1, 2]):
        with pytest.raises(ValueError, match=r"."):
            Whole.read(damaged)
