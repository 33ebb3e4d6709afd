"""Numbers that are too small for a float's full precision, which slow a CPU down."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Let such numbers count as zero, in this thread.

    What is learnt well has gradients that small, and the more so where they pass gates that are
    held shut. An Intel core takes many times as long for each: a LeNet-5 with most of its units
    shut was trained a fifth as fast. Of the threads that share a layer's work, those inherit
    the setting that are started under it.
    """
    before = _are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_flushed() -> bool:
    smallest = torch.tensor(torch.finfo(torch.float32).tiny, device="cpu")
    return bool(smallest / 2 == 0)
