"""What stops the way down where a network is no longer good enough."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from vibfx.copying import copy_graph_module
from vibfx.passes.set_mode import SetMode
from vibfx.planning import Keep
from vibfx.training.ranks import current

# So many checks in a row a network may fail: what was shut too fast comes round with training.
_PATIENCE = 10


class Brake:
    """Asks at intervals whether a network in training is good enough, and remembers when it was.

    Args:
        is_good: Says so of a graph in evaluation mode.

    Attributes:
        best: The units that were open when it last was; None before the first time.
    """

    def __init__(self, is_good: Callable[[fx.GraphModule], bool]) -> None:
        self._is_good = is_good
        self.best: Keep | None = None
        self._failures = 0

    @property
    def is_worn(self) -> bool:
        """Whether the network has failed for so long that it goes no further down."""
        return self._failures >= _PATIENCE

    def lets_pass(self, gated: fx.GraphModule, keep: Keep) -> bool:
        """Whether the way down may go on.

        Args:
            gated: The network in training; a copy of it is asked about.
            keep: The units that are open.
        """
        asked = copy_graph_module(gated)
        SetMode(training=False)(asked)
        found = current().share(self._is_good(asked))  # the first process decides for all
        self._failures = 0 if found else self._failures + 1
        if found:
            self.best = keep.copy()
        return found

    def state_dict(self) -> dict[str, Any]:
        """What it has to go on with."""
        best = None if self.best is None else torch.from_numpy(self.best)
        return {"best": best, "failures": self._failures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best = None if state["best"] is None else state["best"].numpy()
        self._failures = state["failures"]
