"""What else a run depends on, to leave it and go on with it: random numbers, epochs, signals."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vibfx.data import Loader


def mixed(seed: int, *numbers: int) -> int:
    """The seed itself where all other numbers are 0; else a seed of its own for each."""
    if not any(numbers):
        return seed
    sequence = np.random.SeedSequence([number % 2**64 for number in (seed, *numbers)])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's generators stand: the CPU's, and the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state[str(device)] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    """Put the generators back to where they stood; those of a device that is not here are left."""
    for name, value in state.items():
        if name == "cpu":
            torch.set_rng_state(value.cpu())
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(value.cpu(), name)


def set_epoch(loader: Loader, epoch: int) -> None:
    """Tell a loader, its sampler and its batch sampler which epoch starts next, where they ask."""
    parts: list[Any] = [loader, *(getattr(loader, n, None) for n in ("sampler", "batch_sampler"))]
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


@dataclass
class Stop:
    """Whether a signal has asked to stop.

    Attributes:
        asked: The signal's number; 0 for none.
    """

    asked: int = 0


@contextlib.contextmanager
def stopped_by(*numbers: signal.Signals) -> Iterator[Stop]:
    """Take note of signals instead of dying of them, so that a step is not cut in two.

    A second Ctrl-C is not waited for. Outside the main thread nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(received: int, _frame: object) -> None:
        if stop.asked and received == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = received

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
