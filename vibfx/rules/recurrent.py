"""Recurrent layers: a unit is one hidden channel with its rows in every gate of the cell.

All layers and directions of one op keep the same hidden channels, since their states stand in one
tensor. Inside the op nothing can be gated, so the gates multiply the columns of the weights that
read the hidden channels, which is the same thing.
"""

import torch
from torch import Tensor

from vibfx.labels import ALWAYS_KEPT, Tagged, on_dim, varying
from vibfx.rules.facts import Facts
from vibfx.rules.registry import Factors, WeightAt, rule

aten = torch.ops.aten

_FIXED = "reads features that cannot be removed, such as those of the model's input"


RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


@rule(RECURRENT[0], weight_at=WeightAt(2))
def lstm(
    facts: Facts,
    x: Tagged,
    states: list[Tagged],
    weights: list[Tagged],
    biases: bool,
    layers: int,
    _dropout: float,
    _training: bool,
    both_ways: bool,
    batch_first: bool,
) -> list[Factors]:
    """``lstm(x[N, T, I], (h, c), weights, ...) -> [N, T, H], [L, N, H], [L, N, H]``.

    Example: hidden channel j has the rows j, H + j, 2 H + j and 3 H + j of the four gates and the
    column j of the recurrent weight.
    """
    if states[0].shape != states[1].shape:
        everything = [f for t in (x, *states, *weights) for f in t.factors]
        facts.freeze(everything, "an LSTM with projected states")
        return [(), (), ()]
    return _recurrent(facts, x, states, weights, biases, both_ways)


@rule(*RECURRENT[1:], weight_at=WeightAt(2))
def gru(
    facts: Facts,
    x: Tagged,
    state: Tagged,
    weights: list[Tagged],
    biases: bool,
    layers: int,
    _dropout: float,
    _training: bool,
    both_ways: bool,
    batch_first: bool,
) -> list[Factors]:
    """``gru(x[N, T, I], h, weights, ...) -> [N, T, H], [L, N, H]``; a plain RNN likewise."""
    return _recurrent(facts, x, [state], weights, biases, both_ways)


def _recurrent(
    facts: Facts,
    x: Tagged,
    states: list[Tagged],
    weights: list[Tagged],
    biases: bool,
    both_ways: bool,
) -> list[Factors]:
    last = len(x.shape) - 1
    facts.freeze([f for f in x.factors if varying(f) != (last,)], "a recurrent layer runs along it")
    inputs = [f for f in x.factors if varying(f) == (last,)]
    for factor in inputs:
        facts.consume(x, factor)
    lines = [f.flatten(0, -2)[0] for f in inputs]
    per_cell, ways = 4 if biases else 2, 2 if both_ways else 1
    cells = [weights[at : at + per_cell] for at in range(0, len(weights), per_cell)]
    hidden = _hidden(facts, cells[0], states[0].shape[-1])
    for number, cell in enumerate(cells):
        facts.pair(hidden, _hidden(facts, cell, hidden.numel()))
        _read(facts, cell[1], [hidden], inside=True)
        first = number < ways
        _read(facts, cell[0], lines if first else [hidden.repeat(ways)], inside=not first)
    for state in states:
        own = Tagged(state.shape, (on_dim(hidden, 2, state.shape),))
        facts.elementwise([own, state], state.shape)
    shape = (*x.shape[:-1], ways * hidden.numel())
    final = (on_dim(hidden, 2, states[0].shape),)
    return [(on_dim(hidden.repeat(ways), last, shape),), *([final] * len(states))]


def _hidden(facts: Facts, cell: list[Tagged], size: int) -> Tensor:
    """Tie a hidden channel's rows in all gates, weights and biases; returns its labels."""
    rows = [
        f.reshape(f.shape[0], -1)[:, 0].reshape(-1, size) for part in cell for f in part.along(0)
    ]
    for row in rows:
        facts.couple(row, 0)
        facts.pair(rows[0][0], row[0])
    return rows[0][0] if rows else torch.full((size,), ALWAYS_KEPT)  # the only one has no label


def _read(facts: Facts, weight: Tagged, lines: list[Tensor], *, inside: bool) -> None:
    """Tie what a weight reads to its columns, and gate the columns where that is inside the op."""
    for column in weight.along(1):
        if not lines:
            facts.freeze([column], _FIXED)
        for line in lines:
            facts.pair(line, column[0])
        if inside:
            facts.consume(weight, column)
