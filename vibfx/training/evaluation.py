"""How good a graph is: on labels, and beside the original."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vibfx.data import Batch, inputs_and_labels
from vibfx.training.objectives import Objective, floats, relative_error, share_right


@dataclass(frozen=True)
class Score:
    """How good a graph is over all examples of a split; None is what has no meaning there.

    Attributes:
        accuracy: Share of labels that the largest score meets, where the labels are classes.
        loss: Mean loss, where one was asked for.
        agreement: Share of examples whose largest score is the original's, where the model returns
            one row of scores.
        error: Squared error to the original's outputs relative to their variance: 0 is equal.
    """

    accuracy: float | None = None
    loss: float | None = None
    agreement: float | None = None
    error: float | None = None

    @property
    def fault(self) -> float:
        """What decides between two graphs, the less the better: wrong answers, loss or error."""
        if self.accuracy is not None:
            return 1.0 - self.accuracy
        return next((value for value in (self.loss, self.error) if value is not None), 0.0)

    @property
    def right(self) -> float:
        """What ``max_drop`` limits the loss of.

        The share of right answers; else of answers that are the original's; else of the original's
        variance that the outputs explain.
        """
        if self.accuracy is not None:
            return self.accuracy
        if self.agreement is not None:
            return self.agreement
        return 1.0 if self.error is None else 1.0 - self.error


def evaluate(
    module: nn.Module,
    batches: Iterable[Batch],
    device: torch.device | None = None,
    *,
    loss: Objective | None = None,
    original: nn.Module | None = None,
) -> Score:
    """Measure a graph, batch by batch.

    Args:
        module: A graph in evaluation mode; it comes back where it was.
        batches: Such as a loader's.
        device: Where to run; by default the CPU.
        loss: What to report the mean of.
        original: The graph to compare with; it comes back where it was, too: training may be
            distilling from it.
    """
    device = device or torch.device("cpu")
    used = [(part, _place(part)) for part in (module, original, loss) if part is not None]
    sums: dict[str, float] = {}
    seen = 0
    for part, _ in used:
        part.to(device)
    with torch.no_grad():
        for batch in batches:
            x, labels = (t if t is None else t.to(device) for t in inputs_and_labels(batch))
            assert x is not None
            for name, value in _values(module(x), x, labels, loss, original):
                sums[name] = sums.get(name, 0.0) + float(value) * len(x)
            seen += len(x)
    for part, place in used:
        part.to(place)
    return Score(**{name: total / seen for name, total in sums.items()})


def _place(part: nn.Module) -> torch.device:
    """Where a module is; one that holds nothing is on the CPU as well as anywhere."""
    held = next(itertools.chain(part.parameters(), part.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def _values(
    outputs: Any,
    x: Tensor,
    labels: Tensor | None,
    loss: Objective | None,
    original: nn.Module | None,
) -> Iterator[tuple[str, Tensor]]:
    """What can be said of one batch."""
    if (right := share_right(outputs, labels)) is not None:
        yield "accuracy", right
    if loss is not None:
        yield "loss", loss(outputs, x, labels)
    if original is None:
        return
    wanted = original(x)
    yield "error", relative_error(floats(outputs), floats(wanted))
    if isinstance(wanted, Tensor) and wanted.dim() == 2 and wanted.shape[1] > 1:
        yield "agreement", (outputs.argmax(dim=1) == wanted.argmax(dim=1)).double().mean()
