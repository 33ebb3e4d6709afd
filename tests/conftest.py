"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Networks are drawn from the global generator: the same ones in whatever order tests run."""
    torch.manual_seed(0)
