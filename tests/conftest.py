"""What holds for every test."""

import pytest
import torch
from networks import lenet, traced

import vibfx
from vibfx.costs import CostModel


@pytest.fixture(autouse=True)
def seeded():
    """Networks are drawn from the global generator: the same ones in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def lenet_costs():
    """The coupling of LeNet-5, and what its units cost."""
    graph = traced(lenet(), (1, 28, 28))
    coupling = vibfx.analyze(graph)
    return coupling, CostModel(graph, coupling)
