"""Times that nothing is measured for: the staircase, and what falls off it."""

import itertools

import numpy as np
import pytest
from networks import traced
from torch import nn

import vibfx
from vibfx.latency import nominal, nominal_latency


@pytest.fixture(autouse=True)
def blocks_of_sixteen(monkeypatch):
    monkeypatch.setattr(nominal, "channel_block", lambda: 16)


def times_of(*channels, side=32):
    """How the nominal time depends on how many channels of each layer but the last are left."""
    pairs = itertools.pairwise(channels)
    layers = [layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    graph = traced(nn.Sequential(*layers).eval(), (channels[0], side, side))
    coupling = vibfx.analyze(graph)
    model = nominal_latency(graph, coupling)

    def time(*widths):
        keep = np.zeros(coupling.units, dtype=bool)
        for group, width in zip(coupling.groups, widths, strict=True):
            keep[group.start : group.start + width] = True
        return model.cost(keep)

    return time


def test_a_block_takes_as_long_as_what_fills_it_in_part_and_odd_widths_take_longer():
    time = times_of(3, 64, 64)
    assert time(52) == pytest.approx(time(64), rel=0.02)
    assert time(48) < 0.8 * time(64)
    assert time(63) > 1.4 * time(64)


def test_less_than_a_block_pays_from_half_a_block_down():
    time = times_of(3, 16, 16)
    assert time(8) < time(16) < time(12)


def test_half_of_the_channels_of_wide_layers_take_as_much_less_time_as_they_have_flops():
    time = times_of(64, 128, 128, 64)
    flops = (64 * 64 + 64 * 64 + 64 * 64) / (64 * 128 + 128 * 128 + 128 * 64)
    assert flops < time(64, 64) / time(128, 128) < 1.05 * flops


def test_times_do_not_depend_on_a_machine_but_for_its_blocks(monkeypatch):
    ratio = [times_of(3, 64, 64)(32) / times_of(3, 64, 64)(64) for _ in range(2)]
    assert ratio[0] == ratio[1]
    monkeypatch.setattr(nominal, "channel_block", lambda: 1)  # no blocks, no stairs
    time = times_of(3, 64, 64)
    assert time(63) / time(64) == pytest.approx(63 / 64, abs=0.01)
