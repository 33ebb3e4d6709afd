"""How a tensor lies over a run of numbers: whether all that it reaches is there."""

import math
from collections.abc import Sequence
from typing import TypeGuard

from vibfx.model_files.refusals import damaged

# A stride of 0 repeats numbers at no cost to the file, but whatever computes with them pays. Models
# repeat positions and masks so: a square one for 4,096 tokens has this many.
_MOST_REPEATED = 2**24


def check_layout(
    offset: object, shape: Sequence[object], strides: Sequence[object], length: int
) -> None:
    """Checks a tensor that a file declares, before torch sets it up.

    Args:
        offset: Where it begins.
        shape: Its shape.
        strides: One a dimension, in elements.
        length: How many numbers there are to lie over.

    Raises:
        ModelFileError: It reaches beyond them, or repeats them beyond measure.
    """
    numbers = [number for number in (offset, *shape, *strides) if _is_count(number)]
    if len(numbers) != 1 + 2 * len(shape) or len(shape) != len(strides):
        raise damaged("a tensor in it has a shape or strides that are none")
    start, sizes, steps = numbers[0], numbers[1 : 1 + len(shape)], numbers[1 + len(shape) :]
    count = math.prod(sizes)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if count and last >= length:
        raise damaged(f"a tensor in it has {count:,} numbers, beyond the {length:,} that are there")
    if count > max(length, _MOST_REPEATED):
        raise damaged(f"a tensor in it repeats its {length:,} numbers to {count:,}")
    # torch sets up empty tensors too, and multiplies their sizes.
    if any(size > max(length, _MOST_REPEATED) for size in sizes):
        raise damaged(f"a tensor in it has the shape {tuple(sizes)}")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
