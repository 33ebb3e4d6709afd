"""Whether numbers too small for full precision count as zero, and afterwards what they did."""

import pytest
import torch
from torch import nn

import vibfx
from vibfx.training.denormals import flushed


def smallest_half():
    return float(torch.tensor(torch.finfo(torch.float32).tiny) / 2)


@pytest.fixture
def as_usual():
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def test_they_count_as_zero_inside_and_not_outside(as_usual):
    assert smallest_half() > 0.0
    with flushed():
        assert smallest_half() == 0.0
    assert smallest_half() > 0.0


def test_a_setting_that_was_made_before_stays(as_usual):
    torch.set_flush_denormal(True)
    with flushed():
        pass
    assert smallest_half() == 0.0


def test_an_error_does_not_leave_it_on(as_usual):
    with pytest.raises(KeyError), flushed():
        raise KeyError
    assert smallest_half() > 0.0


def test_a_graph_is_trained_with_it(as_usual):
    seen = []

    class Data:
        def __len__(self):
            return 2

        def __iter__(self):
            for _ in range(2):
                seen.append(smallest_half())
                yield torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)

    graph = vibfx.trace(nn.Linear(3, 2), torch.randn(2, 3))
    vibfx.fine_tune(graph, Data(), epochs=1)
    assert seen == [0.0, 0.0]
    assert smallest_half() > 0.0
