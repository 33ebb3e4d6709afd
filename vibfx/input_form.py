"""What a tensor that a model takes looks like, as a plan and a saved graph note it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vibfx.graph import is_tensor, shape_of
from vibfx.inputs import has_batch

# Elements; more are a mistake, or malice.
_LARGEST = 2**31

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


@dataclass(frozen=True)
class InputForm:
    """The shape and type of a tensor that a model takes.

    Attributes:
        shape: Its sizes; None for that of a batch of any size.
        dtype: The type of its numbers, such as ``float32``.
    """

    shape: tuple[int | None, ...]
    dtype: str

    @classmethod
    def of(cls, placeholder: fx.Node) -> "InputForm | None":
        """That of a graph's input; None for a constant, which is no tensor."""
        if not is_tensor(placeholder):
            return None
        sizes: list[int | None] = list(shape_of(placeholder))
        if has_batch(placeholder):
            sizes[0] = None
        return cls(tuple(sizes), str(placeholder.meta["val"].dtype).removeprefix("torch."))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "InputForm":
        """Read what ``dataclasses.asdict`` and JSON made of one.

        Raises:
            ValueError: It is no tensor that a machine can make.
        """
        form = cls(tuple(fields["shape"]), fields["dtype"])
        if not all(size is None or (isinstance(size, int) and size >= 0) for size in form.shape):
            raise ValueError(f"{form.shape} is no shape")
        if form.dtype not in _DTYPES:
            raise ValueError(f"{form.dtype!r} is no type of numbers")
        form.sizes(1)
        return form

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return _DTYPES[self.dtype]

    def sizes(self, batch: int) -> tuple[int, ...]:
        """Its shape with so many examples, where it has a batch of any size.

        Raises:
            ValueError: It has more numbers than any machine takes.
        """
        found = tuple(batch if size is None else size for size in self.shape)
        if math.prod(found) > _LARGEST:
            raise ValueError(f"an input of shape {found} is larger than any machine takes")
        return found
