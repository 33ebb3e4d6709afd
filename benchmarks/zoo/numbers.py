"""Comparing two networks' outputs the way ``vibfx.verify`` does."""

from collections.abc import Sequence

import torch
from torch import Tensor

Outputs = list[Tensor]


def tensors(result: object) -> Outputs:
    """All tensors of a result, whatever holds them."""
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def compare(runs: Sequence[tuple[Outputs, Outputs]]) -> float:
    """The largest difference, divided by the largest change of the expected between runs.

    Args:
        runs: Expected and actual outputs, of two inputs or more.

    Returns:
        Infinity for other shapes, for what is no number, and where nothing changes.
    """
    error = max(distance(expected, actual) for expected, actual in runs)
    change = max(distance(runs[0][0], expected) for expected, _ in runs[1:])
    return error / change if 0.0 < change < float("inf") else float("inf")


def distance(a: Outputs, b: Outputs) -> float:
    """The largest difference of any entry."""
    if [x.shape for x in a] != [x.shape for x in b]:
        return float("inf")
    gaps = [float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True)]
    return max((float("inf") if gap != gap else gap for gap in gaps), default=0.0)
