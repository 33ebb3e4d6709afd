"""The primitives in which every op rule is written.

``tie``: two arrays of labels live or die together. ``couple``: all labels along a dimension become
one unit. ``noshrink``: a dimension keeps its size. ``freeze``: labels never go. ``elementwise`` and
``contract`` are built from them and serve most ops.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, fx

from vibfx.graph import shape_of
from vibfx.labels import ALWAYS_KEPT, Tagged, core, varying
from vibfx.rules.registry import Factors


@dataclass(frozen=True)
class Freeze:
    """Labels that can never go, and why, in words a user understands."""

    labels: Tensor
    reason: str
    node: fx.Node | None = None


@dataclass
class Facts:
    """What the rules have found out about a graph.

    Attributes:
        ties: Pairs of equally long label arrays.
        freezes: Labels that stay, with reasons.
        consumers: For every tensor that a contraction or a reduction sums over along a labelled
            dimension: the node that computes it and the labels. There a removed element must be
            zero.
        node: The node whose rule is running.
    """

    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    consumers: list[tuple[fx.Node, Tensor]] = field(default_factory=list)
    node: fx.Node = field(init=False)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the node's result, at the traced batch size."""
        return shape_of(self.node)

    def freeze(self, factors: Iterable[Tensor], reason: str) -> None:
        """Labels in these arrays never go."""
        for factor in factors:
            labels = torch.unique(core(factor)[0])
            labels = labels[labels != ALWAYS_KEPT]
            if labels.numel():
                self.freezes.append(Freeze(labels, reason, self.node))

    def pair(self, a: Tensor, b: Tensor) -> None:
        """Labels at equal positions of two equally long arrays live or die together."""
        a, b = a.flatten(), b.flatten()
        stays_a, stays_b = a == ALWAYS_KEPT, b == ALWAYS_KEPT
        if bool(stays_a.any()) or bool(stays_b.any()):
            reason = "tied to channels that always stay, such as those of the model's input"
            self.freeze([a[stays_b]], reason)
            self.freeze([b[stays_a]], reason)
            both = ~(stays_a | stays_b)
            a, b = a[both], b[both]
        self.ties.append((a, b))

    def couple(self, factor: Tensor, dim: int) -> Tensor:
        """All labels along a dimension become one unit; returns the factor without variation."""
        (small,) = core(factor)
        first = small.narrow(dim, 0, 1)
        if small.size(dim) > 1:
            rest = small.narrow(dim, 1, small.size(dim) - 1)
            self.pair(first.expand(rest.shape), rest)
        return factor.narrow(dim, 0, 1).expand(factor.shape)

    def noshrink(self, factor: Tensor, dim: int, reason: str) -> None:
        """A dimension keeps its size: freeze, or make each slice across it one unit."""
        if varying(factor) == (dim,):
            self.freeze([factor], reason)
        elif dim in varying(factor):
            self.couple(factor, dim)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Elements at equal positions live or die together.

        Where one array varies along strictly more dimensions than the other (a table shared by
        heads), they are tied along the outer axis only, and the inner ones keep their size.
        """
        a, b = torch.broadcast_tensors(a, b)
        narrow, wide = sorted((a, b), key=lambda f: len(varying(f)))
        if set(varying(narrow)) < set(varying(wide)) and varying(narrow):
            outer = max(varying(wide), key=lambda dim: _label_stride(wide, dim))
            for dim in varying(wide):
                if dim != outer:
                    reason = "shares a parameter with a tensor of fewer dimensions"
                    self.noshrink(wide, dim, reason)
                    self.noshrink(narrow, dim, reason)
                    a = a.narrow(dim, 0, 1).expand(a.shape)
                    b = b.narrow(dim, 0, 1).expand(b.shape)
        self.pair(*core(a, b))

    def consume(self, operand: Tagged, factor: Tensor) -> None:
        """The op sums over labelled elements of an operand, so removed ones must be zero."""
        if operand.source is not None:
            self.consumers.append((operand.source, factor))

    def elementwise(self, operands: Sequence[Tagged], shape: Sequence[int]) -> Factors:
        """Operands broadcast to one shape and combined element by element.

        Args:
            operands: The tensor operands.
            shape: The shape of the result.

        Returns:
            The result's factors.
        """
        rank = len(shape)
        aligned = [[f.expand(tuple(shape)) for f in operand.factors] for operand in operands]
        for dim in range(rank):
            self._join(
                [
                    [f for f in factors if dim in varying(f)]
                    for operand, factors in zip(operands, aligned, strict=True)
                    if _size_at(operand, dim, rank) > 1
                ],
                dim,
            )
        return distinct(aligned)

    def _join(self, along: list[list[Tensor]], dim: int) -> None:
        """Tie operands along one dimension, or keep its size where one has no labels on it."""
        if not all(along):
            for factor in (f for factors in along for f in factors):
                self.noshrink(
                    factor, dim, "combined with a tensor whose channels cannot be removed"
                )
            return
        for other in along[1:]:
            alike = len(along[0]) == len(other)
            pairs = zip(along[0], other, strict=True) if alike else product(along[0], other)
            for a, b in pairs:
                self.tie(a, b)

    def contract(self, equation: str, a: Tagged, b: Tagged, reason: str) -> Factors:
        """A product of two tensors summed over shared letters, written like ``einsum``.

        Args:
            equation: Such as ``"nc,oc->no"``; one letter a dimension.
            a: The activation.
            b: The other operand, a weight as a rule.
            reason: Why a contracted dimension stays where one side has no labels on it.

        Returns:
            The factors of the result, in the order of its letters.
        """
        inputs, result = equation.split("->")
        left, right = inputs.split(",")
        letters = "".join(dict.fromkeys(left + right))
        sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
        space = tuple(sizes[letter] for letter in letters)
        fa = [_spread(f, left, letters, space) for f in a.factors]
        fb = [_spread(f, right, letters, space) for f in b.factors]
        contracted = [letters.index(x) for x in letters if x not in result]
        batch = {letters.index(x) for x in set(left) & set(right) & set(result)}
        self._consume(a, fa, b, fb, contracted)
        for dim in contracted:
            fa, fb = self._contract_along(fa, fb, dim, batch, reason)
        for dim in batch:
            self._join([[f for f in side if dim in varying(f)] for side in (fa, fb)], dim)
        order = [letters.index(letter) for letter in result]
        return distinct(
            [
                [drop_trailing(f.permute(order + contracted), len(contracted)) for f in side]
                for side in (fa, fb)
            ]
        )

    def _consume(
        self, a: Tagged, fa: list[Tensor], b: Tagged, fb: list[Tensor], contracted: list[int]
    ) -> None:
        """Note what a product sums over; it is zero where either side is, so one side will do."""
        for dim in contracted:
            for operand, spread in ((a, fa), (b, fb)):
                pairs = zip(operand.factors, spread, strict=True)
                if hits := [own for own, f in pairs if dim in varying(f)]:
                    for factor in hits:
                        self.consume(operand, factor)
                    break

    def _contract_along(
        self, fa: list[Tensor], fb: list[Tensor], dim: int, batch: set[int], reason: str
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Settle one contracted dimension; returns what is left to carry on."""
        hits_a = [f for f in fa if dim in varying(f)]
        hits_b = [f for f in fb if dim in varying(f)]
        for f, g in product(hits_a, hits_b):
            self.tie(f, g)
        paired = bool(hits_a and hits_b)
        if not paired:
            for f in hits_a + hits_b:
                self.noshrink(f, dim, reason)
        return (
            [f for x in fa for f in self._carry(x, dim, batch, paired)],
            [f for x in fb for f in self._carry(x, dim, batch, paired)],
        )

    def _carry(self, factor: Tensor, dim: int, batch: set[int], paired: bool) -> list[Tensor]:
        """What a factor leaves in the result once a dimension is summed over."""
        if dim not in varying(factor):
            return [factor]
        if set(varying(factor)) & batch:
            return [self.couple(factor, dim)]
        if not paired and len(varying(factor)) > 1:
            # Coupled along the dimension by ``noshrink``: its outer dimension still carries labels.
            return [factor.narrow(dim, 0, 1).expand(factor.shape)]
        return []


def drop_trailing(factor: Tensor, count: int) -> Tensor:
    """A factor without its last dimensions, along which it does not vary."""
    for _ in range(count):
        factor = factor.select(-1, 0)
    return factor


def distinct(operands: Sequence[Sequence[Tensor]]) -> Factors:
    """The factors of a result whose operands have been tied.

    Where several operands vary along the same dimensions, the first one's factors speak for all.
    """
    chosen: dict[tuple[int, ...], list[Tensor]] = {}
    for factors in operands:
        own: dict[tuple[int, ...], list[Tensor]] = {}
        for factor in factors:
            if dims := varying(factor):
                own.setdefault(dims, []).append(factor)
        chosen = own | chosen
    return tuple(factor for factors in chosen.values() for factor in factors)


def _size_at(operand: Tagged, dim: int, rank: int) -> int:
    own = dim - (rank - len(operand.shape))
    return operand.shape[own] if own >= 0 else 1


def _label_stride(factor: Tensor, dim: int) -> int:
    line = factor.select(dim, 1) - factor.select(dim, 0)
    return int(line.abs().max())


def _spread(factor: Tensor, own: str, letters: str, space: tuple[int, ...]) -> Tensor:
    """Place an operand's factor in the space of all letters."""
    order = sorted(range(len(own)), key=lambda d: letters.index(own[d]))
    placed = factor.permute(order)
    for position, letter in enumerate(letters):
        if letter not in own:
            placed = placed.unsqueeze(position)
    return placed.expand(space)
