"""Labels made by hand for the tests of the primitives, and what was found out about them."""

import torch
from torch import fx

from vibfx.labels import Tagged, on_dim, varying
from vibfx.rules.facts import Facts


def new_facts(count=100):
    """Nothing found yet about this many labels."""
    found = Facts(count)
    found.node = fx.Graph().placeholder("here")
    return found


def labels(*numbers):
    return torch.tensor(numbers)


def grid(rows, columns, start=1):
    return torch.arange(start, start + rows * columns).reshape(rows, columns)


def tagged(shape, source=None, **by_dim):
    """``tagged((2, 3), d1=[1, 2, 3])``: one factor a keyword."""
    factors = tuple(on_dim(labels(*v), int(k[1:]), shape) for k, v in by_dim.items())
    return Tagged(shape, factors, source)


def ties(facts):
    pairs = [zip(a.tolist(), b.tolist(), strict=True) for a, b in facts.ties]
    return {tuple(sorted(pair)) for group in pairs for pair in group}


def freezes(facts):
    return [(freeze.labels.tolist(), freeze.reason) for freeze in facts.freezes]


def described(factors):
    """Each factor as the dimensions it varies along and its values there."""
    return [(varying(f), f[_first_elsewhere(f)].tolist()) for f in factors]


def _first_elsewhere(factor):
    own = varying(factor)
    return tuple(slice(None) if dim in own else 0 for dim in range(factor.dim()))
