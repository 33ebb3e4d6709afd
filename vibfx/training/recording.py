"""What a teacher says of samples that never change, asked once instead of every epoch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vibfx.data import Loader, TensorLoader, inputs_and_labels
from vibfx.training.engine import Engine
from vibfx.training.objectives import Distillation, Objective, in_float32, share_right
from vibfx.training.ranks import current


def recorded(
    loader: Loader, objective: Objective, engine: Engine, epochs: int
) -> tuple[Loader, Objective]:
    """The same batches and the same data term, with the original's outputs looked up.

    That is so for a distillation from samples in memory that are the same in every epoch, where the
    outputs take no more memory than the samples. All else is returned as it is.

    Args:
        loader: The batches of training.
        objective: The data term, on the engine's device.
        engine: What runs the original, once for every sample.
        epochs: How many there will be: every process asks for all samples, which pays where they
            are more than the processes.
    """
    if not isinstance(objective, Distillation) or epochs <= current().world:
        return loader, objective
    if not isinstance(loader, TensorLoader) or loader.augments:
        return loader, objective
    parts: list[Any] = []
    taken = 0
    with torch.no_grad():
        for batch in loader.in_order():
            x = engine.place(inputs_and_labels(batch)[0])
            with engine.precision():
                wanted = pytree.tree_map(in_float32, objective.original(x))
            leaves = pytree.tree_leaves(wanted)
            if not all(
                isinstance(leaf, Tensor) and leaf.shape[:1] == x.shape[:1] for leaf in leaves
            ):
                return loader, objective
            taken += sum(leaf.nbytes for leaf in leaves)
            if taken > loader.nbytes:
                return loader, objective
            parts.append(wanted)
    wanted = pytree.tree_map(lambda *pieces: torch.cat(pieces), *parts)
    return loader.numbered(), _Recorded(objective, wanted, loader.labels)


class _Recorded(Objective):
    """A distillation whose labels are the numbers of samples.

    Args:
        distillation: The data term.
        wanted: The original's outputs ``[samples, ...]``, in its structure.
        labels: The labels ``[samples, ...]``, if there are any.
    """

    def __init__(self, distillation: Distillation, wanted: Any, labels: Tensor | None) -> None:
        super().__init__()
        self._distillation, self._wanted, self._labels = distillation, wanted, labels

    def forward(self, outputs: Any, x: Tensor, labels: Tensor | None) -> Tensor:
        """The distillation's term."""
        assert labels is not None
        wanted = pytree.tree_map(lambda leaf: leaf[labels], self._wanted)
        return self._distillation.compare(outputs, wanted, x, self._labels_of(labels))

    def share_right(self, outputs: Any, labels: Tensor | None) -> Tensor | None:
        """The share of the samples' own labels that are met."""
        assert labels is not None
        return share_right(outputs, self._labels_of(labels))

    def _labels_of(self, numbers: Tensor) -> Tensor | None:
        return None if self._labels is None else self._labels[numbers]
