"""What stops the way down."""

import numpy as np
import torch
from networks import gated
from tasks import graph, one_thread  # noqa: F401

from vibfx.gates import gates_of
from vibfx.passes import SetMode
from vibfx.training.brake import _PATIENCE, Brake

ALL, HALF = np.ones(4, dtype=bool), np.array([True, True, False, False])


def network():
    module = gated(graph())
    SetMode(training=True)(module)
    return module


def test_it_remembers_what_was_good_enough():
    answers = iter([True, False, True])
    brake, module = Brake(lambda graph: next(answers)), network()
    assert brake.best is None
    assert brake.lets_pass(module, ALL)
    assert not brake.lets_pass(module, HALF)
    assert brake.best.tolist() == ALL.tolist()
    assert brake.lets_pass(module, HALF)
    assert brake.best.tolist() == HALF.tolist()


def test_it_asks_about_a_copy_in_evaluation_mode():
    module, asked = network(), []
    Brake(lambda graph: bool(asked.append(graph)) or True).lets_pass(module, ALL)
    (copy,) = asked
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy(x), copy(x))
    assert not torch.equal(module(x), module(x))
    assert all(gate.training for gate in gates_of(module).values())


def test_it_is_worn_after_failing_for_long_and_one_success_renews_it():
    good = [False] * (_PATIENCE - 1) + [True] + [False] * _PATIENCE
    answers = iter(good)
    brake, module, worn = Brake(lambda graph: next(answers)), network(), []
    for _ in good:
        brake.lets_pass(module, ALL)
        worn.append(brake.is_worn)
    assert worn == [False] * (len(good) - 1) + [True]


def test_it_goes_on_from_where_it_was_left():
    module, first, again = network(), Brake(lambda graph: True), Brake(lambda graph: False)
    first.lets_pass(module, HALF)
    again.load_state_dict(first.state_dict())
    assert again.best.tolist() == HALF.tolist()
    for _ in range(_PATIENCE):
        again.lets_pass(module, ALL)
    renewed = Brake(lambda graph: True)
    renewed.load_state_dict(again.state_dict())
    assert renewed.is_worn
    assert renewed.best.tolist() == HALF.tolist()
    empty = Brake(lambda graph: True)
    empty.load_state_dict(Brake(lambda graph: True).state_dict())
    assert empty.best is None
