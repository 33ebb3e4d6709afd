"""Labels: which index of which parameter every element of every tensor stands or falls with.

The parameter is the source of labels. Every index of every labelled dimension of every parameter or
buffer gets a number of its own; there is no notion of a layer. A tensor carries *factors*: integer
arrays of its own shape that say, for each element, which label it depends on. An element goes when
the label of any of its factors goes. Label 0 means "always stays".

A factor is expanded to the full shape with stride 0 where it does not vary, so batch and space cost
nothing, and pure data movement is done by running the real op on the factor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx

ALWAYS_KEPT = 0


@dataclass(frozen=True)
class Slot:
    """One labelled dimension of one parameter: labels ``start`` to ``start + size - 1``."""

    parameter: str
    dim: int
    start: int
    size: int


@dataclass(frozen=True)
class LabelSpace:
    """All labels of a graph."""

    slots: tuple[Slot, ...]

    @classmethod
    def over(cls, shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> "LabelSpace":
        """Number the dimensions given as ``(parameter, shape, labelled dims)``, in that order."""
        slots: list[Slot] = []
        start = ALWAYS_KEPT + 1
        for parameter, shape, dims in shapes:
            for dim in dims:
                slots.append(Slot(parameter, dim, start, shape[dim]))
                start += shape[dim]
        return cls(tuple(slots))

    def __len__(self) -> int:
        """How many labels there are, the one for what always stays included."""
        return self.slots[-1].start + self.slots[-1].size if self.slots else 1

    def of_parameter(self, parameter: str) -> list[Slot]:
        """The slots of one parameter."""
        return self._by_parameter.get(parameter, [])

    def factors_of(self, parameter: str, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """One factor for each labelled dimension of a parameter of this shape."""
        dims = range(len(shape))
        return tuple(
            [
                self._labels.as_strided(shape, [int(dim == slot.dim) for dim in dims], slot.start)
                for slot in self.of_parameter(parameter)
            ]
        )

    @cached_property
    def _labels(self) -> Tensor:
        """All labels in order: the parameters' factors are views of it."""
        return torch.arange(len(self))

    @cached_property
    def _by_parameter(self) -> dict[str, list[Slot]]:
        slots: dict[str, list[Slot]] = {}
        for slot in self.slots:
            slots.setdefault(slot.parameter, []).append(slot)
        return slots

    def slot_of_label(self) -> np.ndarray:
        """For each label the position of its slot in ``slots``; -1 for label 0."""
        sizes = [slot.size for slot in self.slots]
        return np.concatenate([[-1], np.repeat(np.arange(len(sizes)), sizes)]).astype(np.int64)


@dataclass(frozen=True)
class Tagged:
    """A tensor as the analysis sees it.

    Attributes:
        shape: Its full shape, at the traced batch size.
        factors: Label arrays of that shape, stride 0 where they do not vary.
        source: The node that computes it.
        value: Its content, for a constant of whole numbers (an index).
    """

    shape: tuple[int, ...]
    factors: tuple[Tensor, ...] = ()
    source: fx.Node | None = None
    value: Tensor | None = None

    def along(self, dim: int) -> list[Tensor]:
        """The factors that vary along a dimension."""
        return [factor for factor in self.factors if dim % len(self.shape) in varying(factor)]


def on_dim(labels: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
    """A factor of this shape that varies along one dimension only."""
    view = [1] * len(shape)
    view[dim] = labels.numel()
    return labels.reshape(view).expand(shape)


def varying(factor: Tensor) -> tuple[int, ...]:
    """The dimensions along which a factor varies."""
    # Asked tens of thousands of times a graph: a list is built twice as fast as a generator.
    return tuple(
        [d for d, (n, step) in enumerate(zip(factor.shape, factor.stride())) if step and n > 1]  # noqa: B905
    )


def compress(factor: Tensor) -> Tensor:
    """Give stride 0 to the dimensions along which the factor turns out not to vary.

    Args:
        factor: Any label array.

    Returns:
        An array with the same values.
    """
    for dim in varying(factor):
        if _is_constant_along(core(factor)[0], dim):
            factor = factor.narrow(dim, 0, 1).expand(factor.shape)
    return factor


def _is_constant_along(factor: Tensor, dim: int) -> bool:
    # Three slices settle nearly every case without looking at the whole.
    first = factor.select(dim, 0)
    size = factor.size(dim)
    if not torch.equal(first, factor.select(dim, size - 1)):
        return False
    if not torch.equal(first, factor.select(dim, size // 2)):
        return False
    return bool((factor == factor.narrow(dim, 0, 1)).all())


def core(*factors: Tensor) -> tuple[Tensor, ...]:
    """The factors, broadcast together and cut to one slice where none of them varies."""
    if len(factors) == 1:
        (factor,) = factors
        steps = factor.stride()
        if 0 not in steps:
            return factors
        sizes = [size if step else 1 for size, step in zip(factor.shape, steps)]  # noqa: B905
        return (factor.as_strided(sizes, steps),)
    joint = torch.broadcast_tensors(*factors)
    strides = [factor.stride() for factor in joint]
    sizes = [
        size if any(steps) else 1
        for size, steps in zip(joint[0].shape, zip(*strides, strict=True), strict=True)
    ]
    return tuple(
        factor.as_strided(sizes, steps) for factor, steps in zip(joint, strides, strict=True)
    )


class Survivors:
    """What a removal leaves of tensors, many of which share their labels.

    Args:
        removed: Booleans over all labels.
    """

    def __init__(self, removed: Tensor) -> None:
        self._removed = removed.numpy()
        self._known: dict[tuple[int, ...], Tensor | None] = {}

    def of_slot(self, slot: Slot) -> Tensor | None:
        """The kept indices of a parameter's dimension, or None where nothing goes."""
        return self._left(self._removed[slot.start : slot.start + slot.size])

    def of(self, tagged: Tagged) -> tuple[Tensor | None, ...]:
        """For each dimension the kept indices, or None where nothing goes.

        Raises:
            ValueError: The removal would leave something that is no box.
        """
        keep: list[Tensor | None] = [None] * len(tagged.shape)
        for factor in tagged.factors:
            dims = varying(factor)
            if len(dims) == 1:
                dim, kept = dims[0], self._along(factor, dims[0])
            else:
                dim, kept = self._along_one_of(factor)
            if kept is not None:
                other = keep[dim]
                keep[dim] = kept if other is None else kept[torch.isin(kept, other)]
        return tuple(keep)

    def _along(self, factor: Tensor, dim: int) -> Tensor | None:
        key = (factor.data_ptr(), factor.shape[dim], factor.stride(dim))
        if key not in self._known:
            self._known[key] = self._left(self._removed[core(factor)[0].numpy().ravel()])
        return self._known[key]

    def _left(self, gone: np.ndarray) -> Tensor | None:
        return torch.from_numpy(np.flatnonzero(~gone)) if gone.any() else None

    def _along_one_of(self, factor: Tensor) -> tuple[int, Tensor | None]:
        gone = self._removed[core(factor)[0].numpy()]
        if not gone.any():
            return 0, None
        dim = _axis_of(gone)
        return dim, torch.from_numpy(np.flatnonzero(~_first_line(gone, dim)))


def _first_line(values: np.ndarray, axis: int) -> np.ndarray:
    return values[tuple(slice(None) if d == axis else slice(1) for d in range(values.ndim))]


def _axis_of(gone: np.ndarray) -> int:
    """The one dimension along which a removal is whole slices."""
    if gone.size == 1:
        return gone.ndim - 1  # the only entry of a gate
    for axis in range(gone.ndim):
        if gone.shape[axis] > 1 and (gone == _first_line(gone, axis)).all():
            return axis
    raise ValueError("the removal is not whole slices along one dimension")
