"""The primitives in which every op rule is written.

``tie``: two arrays of labels live or die together. ``couple``: all labels along a dimension become
one unit. ``noshrink``: a dimension keeps its size. ``freeze``: labels never go. ``elementwise`` and
``statistics`` are built from them, as is ``contract`` in its own file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product, takewhile

import torch
from torch import Tensor, fx

from vibfx.graph import shape_of, symbolic_dims
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
        labels: How many labels there are so far, the one for what always stays included.
        exact_norms: Whether channels may go from under a norm or a mean that runs across them, to
            be rewritten with its original denominator; if not, they stay.
        ties: Pairs of equally long label arrays.
        freezes: Labels that stay, with reasons.
        consumers: For every tensor that a contraction or a reduction sums over along a labelled
            dimension: the node that computes it and the labels. There a removed element must be
            zero.
        node: The node whose rule is running.
    """

    labels: int
    exact_norms: bool = True
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    consumers: list[tuple[fx.Node, Tensor]] = field(default_factory=list)
    node: fx.Node = field(init=False)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the node's result, at the traced batch size."""
        return shape_of(self.node)

    def fresh(self, count: int) -> Tensor:
        """New labels, for elements that no parameter makes, such as padding."""
        self.labels += count
        return torch.arange(self.labels - count, self.labels)

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
        if not (a.all() and b.all()):
            stays_a, stays_b = a == ALWAYS_KEPT, b == ALWAYS_KEPT
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

    def keep(self, factors: Iterable[Tensor], dims: Iterable[int], reason: str) -> Factors:
        """Dimensions keep their size; returns what the factors still say along the others."""
        passed = []
        for factor in factors:
            for dim in set(dims) & set(varying(factor)):
                self.noshrink(factor, dim, reason)
                factor = factor.narrow(dim, 0, 1).expand(factor.shape)
            if varying(factor):
                passed.append(factor)
        return tuple(passed)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Elements at equal positions live or die together.

        Where one array varies along fewer dimensions than the other, and not along the outermost
        (a table shared by heads), nothing is tied: the dimensions they share keep their size.
        """
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        if varying(a) == varying(b):
            self.pair(core(a)[0], core(b)[0])
            return
        narrow, wide = sorted((a, b), key=lambda f: len(varying(f)))
        shared = varying(narrow)
        if set(shared) < set(varying(wide)) and _outermost(wide) not in shared:
            reason = "shares a parameter with a tensor of more dimensions"
            for dim in shared:
                self.noshrink(wide, dim, reason)
                self.noshrink(narrow, dim, reason)
        else:
            self.pair(*core(a, b))

    def consume(self, operand: Tagged, factor: Tensor) -> None:
        """The op sums over labelled elements of an operand, so removed ones must be zero."""
        if operand.source is None:
            return
        if set(varying(factor)) & symbolic_dims(operand.source):
            self.freeze([factor], "its channels share a dimension with the batch")
        else:
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
        spans = [[varying(f) for f in factors] for factors in aligned]
        for dim in range(rank):
            self.join(
                [
                    [f for f, dims in zip(factors, along, strict=True) if dim in dims]
                    for operand, factors, along in zip(operands, aligned, spans, strict=True)
                    if _size_at(operand, dim, rank) > 1
                ],
                dim,
            )
        wide = {dims for along in spans for dims in along}
        return distinct([[f for f in fs if not self._is_settled(f, wide)] for fs in aligned])

    def _is_settled(self, factor: Tensor, spans: set[tuple[int, ...]]) -> bool:
        """Whether a factor (a table shared by heads) stays, beside one of more dimensions."""
        dims = set(varying(factor))
        if not any(dims < set(other) for other in spans):
            return False
        labels = torch.unique(core(factor)[0])
        here = takewhile(lambda freeze: freeze.node is self.node, reversed(self.freezes))
        return any(torch.equal(freeze.labels, labels) for freeze in here)

    def join(self, along: list[list[Tensor]], dim: int) -> None:
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

    def statistics(self, x: Tagged, dims: Sequence[int], reason: str) -> Factors:
        """What a sum, a mean or a norm over dimensions asks of its operand.

        Labels along these dimensions alone may go, as removed elements add nothing; labels that
        also vary along others (one a head, normalised head by head) are coupled across.

        Args:
            x: The operand.
            dims: The dimensions that are reduced, none negative.
            reason: Why the labels stay, where statistics across channels are not rewritten.

        Returns:
            The factors of ``x`` that still say something along its other dimensions, at full shape.
        """
        passed = []
        for factor in x.factors:
            across = [dim for dim in dims if dim in varying(factor)]
            if not across:
                passed.append(factor)
            elif set(varying(factor)) > set(across):
                for dim in across:
                    factor = self.couple(factor, dim)
                passed.append(factor)
            elif self.exact_norms:
                self.consume(x, factor)
            else:
                self.freeze([factor], reason)
        return tuple(passed)


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


def _outermost(factor: Tensor) -> int:
    """The dimension along which labels are furthest apart: heads, rather than what is in them."""
    (small,) = core(factor)

    def distance(dim: int) -> int:
        return int((small.select(dim, -1) - small.select(dim, 0)).abs().max())

    return max(varying(factor), key=distance)
