"""What of a graph takes time, by hand."""

import numpy as np
import pytest
import torch
from networks import traced
from torch import nn

import vibfx
from vibfx.errors import GraphError
from vibfx.latency.layout import Layout


class Sum(nn.Module):
    """Two convolutions added, pooled and read by a third one and a linear."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(3, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.a(x) + self.b(x))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def found():
    graph = traced(Sum(), (3, 6, 6))
    coupling = vibfx.analyze(graph)
    return Layout.of(graph, coupling), coupling


def test_widths_and_which_of_them_are_free(found):
    layout, coupling = found
    counts = layout.counts.of(np.ones(coupling.units, dtype=bool))
    assert counts[layout.widths].tolist() == [[8, 3], [8, 3], [4, 8], [2, 4]]
    assert layout.free == ((True, False), (True, False), (True, True), (False, True))
    assert [kernel.op for kernel in layout.kernels] == ["Conv", "Conv", "Conv", "Gemm"]


def test_what_reads_what(found):
    layout, _ = found
    assert np.argwhere(layout.sources).tolist() == [[2, 0], [2, 1], [3, 2]]


def test_elements_of_what_is_no_layer(found):
    layout, coupling = found
    for width in (8, 5):
        keep = np.ones(coupling.units, dtype=bool)
        group = next(group for group in coupling.groups if group.size == 8)
        keep[group.start : group.start + 8 - width] = False
        counts = layout.counts.of(keep)
        elements = sum(each * counts[list(rows)].prod() for rows, each in layout.elements.items())
        # The sum and its ReLU, then the second ReLU and the mean.
        assert elements == 2 * width * 36 + 4 * 36 + 4


def test_the_analysis_of_another_graph_is_refused(found):
    _, coupling = found
    with pytest.raises(GraphError, match="another graph"):
        Layout.of(traced(nn.Sequential(nn.Linear(3, 4)), (3,)), coupling)
