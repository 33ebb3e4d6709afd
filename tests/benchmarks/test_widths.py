"""Cuts to a share of the FLOPs, by the landing and by Torch-Pruning."""

import pytest
import torch
from networks import traced
from torch import nn
from widths import all_cuts, by_landing, by_torch_pruning

import vibfx
from vibfx.export import latencies


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    ).eval()  # fmt: skip


def widths(graph):
    return [layer.shape[0] for layer in vibfx.measure(graph).layers]


def share(small):
    return vibfx.measure(small).flops / vibfx.measure(traced(model(), (3, 16, 16))).flops


@pytest.mark.parametrize(("round_to", "multiple"), [(1, 1), (8, 8)])
def test_landing_uses_the_share_up(round_to, multiple):
    small = by_landing(traced(model(), (3, 16, 16)), 0.5, 0, round_to)
    assert 0.485 <= share(small) <= 0.5
    assert sum(width % multiple != 0 for width in widths(small)[:2]) <= 1


@pytest.mark.parametrize(("round_to", "multiple"), [(None, 1), (8, 8)])
def test_torch_pruning_ends_within_the_share(round_to, multiple):
    small = by_torch_pruning(model(), torch.randn(2, 3, 16, 16), 0.5, round_to)
    assert 0.25 < share(small) <= 0.5
    assert all(width % multiple == 0 for width in widths(small)[:2])
    assert widths(small)[-1] == 10


def test_every_way_gives_a_file_that_takes_the_same_inputs(tmp_path):
    graph, x = traced(model(), (3, 16, 16)), torch.randn(2, 3, 16, 16)
    cuts = list(all_cuts(model(), graph, x, 0.5, 0, tmp_path))
    assert [cut.by for cut in cuts] == [
        "nothing",
        "vibfx, any width",
        "vibfx, whole steps",
        "Torch-Pruning",
        "Torch-Pruning, round_to=8",
        "vibfx, as few FLOPs",
    ]
    assert cuts[0].flops == 1.0
    assert all(cut.flops <= 0.5 for cut in cuts[1:])
    assert all(cut.channels < cuts[0].channels for cut in cuts[1:])
    times = latencies([cut.path for cut in cuts], graph, seconds=0.1)
    assert cuts[5].flops <= cuts[4].flops
    assert len(times) == 6
