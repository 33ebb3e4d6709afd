"""A product of two tensors summed over shared dimensions, which is what most layers are."""

from dataclasses import dataclass
from itertools import product

from torch import Tensor

from vibfx.labels import Tagged, core, varying
from vibfx.rules.facts import Facts, distinct, drop_trailing
from vibfx.rules.registry import Factors


def contract(facts: Facts, equation: str, a: Tagged, b: Tagged, reason: str) -> Factors:
    """A product of two tensors summed over shared letters, written like ``einsum``.

    Args:
        facts: Where to note what is found.
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
    fa = [_Operand(a, f, _spread(f, left, letters, space)) for f in a.factors]
    fb = [_Operand(b, f, _spread(f, right, letters, space)) for f in b.factors]
    contracted = [letters.index(x) for x in letters if x not in result]
    batch = {letters.index(x) for x in set(left) & set(right) & set(result)}
    for dim in contracted:
        fa, fb = _contract_along(facts, fa, fb, dim, batch, reason)
    for dim in batch:
        facts.join([[f.spread for f in fs if dim in varying(f.spread)] for fs in (fa, fb)], dim)
    order = [letters.index(letter) for letter in result]
    return distinct(
        [
            [drop_trailing(f.spread.permute(order + contracted), len(contracted)) for f in side]
            for side in (fa, fb)
        ]
    )


def _contract_along(
    facts: Facts,
    fa: list["_Operand"],
    fb: list["_Operand"],
    dim: int,
    batch: set[int],
    reason: str,
) -> tuple[list["_Operand"], list["_Operand"]]:
    """Settle one contracted dimension; returns what is left to carry on.

    A factor that varies along a batch letter too (one product a head) is coupled along the
    contracted one and carried on. Others are tied to the other side's, and end here, or keep
    the dimension's size where the other side has no labels on it.
    """
    hits_a = [f for f in fa if dim in varying(f.spread)]
    hits_b = [f for f in fb if dim in varying(f.spread)]
    by_batch = [f for f in hits_a + hits_b if set(varying(f.spread)) & batch]
    paired = bool(hits_a and hits_b) and not by_batch
    if paired:
        for f, g in product(hits_a, hits_b):
            facts.pair(*core(f.spread, g.spread))
        is_node = hits_a[0].tagged.source is not None  # and no product within the op
        for f in hits_a if is_node else hits_b:
            facts.consume(f.tagged, f.own)
        return [f for f in fa if f not in hits_a], [f for f in fb if f not in hits_b]
    for f in hits_a + hits_b:
        facts.noshrink(f.spread, dim, reason)
    return [f.flat(dim) for f in fa], [f.flat(dim) for f in fb]


@dataclass(frozen=True, eq=False)
class _Operand:
    """One factor of one side of a product, as it is and in the space of all letters."""

    tagged: Tagged
    own: Tensor
    spread: Tensor

    def flat(self, dim: int) -> "_Operand":
        """Without what it says along one dimension."""
        narrowed = self.spread.narrow(dim, 0, 1).expand(self.spread.shape)
        return _Operand(self.tagged, self.own, narrowed)


def _spread(factor: Tensor, own: str, letters: str, space: tuple[int, ...]) -> Tensor:
    """Place an operand's factor in the space of all letters."""
    order = sorted(range(len(own)), key=lambda d: letters.index(own[d]))
    placed = factor.permute(order)
    for position, letter in enumerate(letters):
        if letter not in own:
            placed = placed.unsqueeze(position)
    return placed.expand(space)
