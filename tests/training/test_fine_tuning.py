"""Training a graph without gates."""

import math
import pickle

import pytest
import torch
from networks import traced
from tasks import Interrupting, graph, images, modes, one_thread, phase_of, same  # noqa: F401
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.errors import GraphError
from vibfx.training.phases import fine_tune


def test_fine_tuning_lowers_the_loss():
    module = graph()
    before = loss(module)
    outcome = fine_tune(module, images(), epochs=8, lr=5e-3)
    assert outcome.steps == 40
    assert not outcome.interrupted
    assert loss(module) < 0.2 * before
    assert modes(module) == {False}


def loss(module):
    with torch.no_grad():
        return float(sum(F.cross_entropy(module(x), y) for x, y in images())) / len(images())


def test_fine_tuning_is_fixed_by_its_seed():
    first, again, other = (graph() for _ in range(3))
    for module, seed in ((first, 1), (again, 1), (other, 2)):
        fine_tune(module, images(), epochs=2, seed=seed)
    assert same(first, again)
    assert not same(first, other)


def test_the_rate_falls_to_zero_along_a_half_cosine(monkeypatch):
    module = graph()
    phase, options = phase_of(
        monkeypatch, lambda: fine_tune(module, images(), epochs=4, lr=0.01, seed=9)
    )
    assert (phase.epochs, options["seed"]) == (4, 9)
    rates = []
    for _ in range(20):
        rates.append(phase.optimizer.param_groups[0]["lr"])
        phase.optimizer.step()
        phase.after_step()
    expected = [0.01 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert phase.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    assert (phase.penalty(), phase.units, phase.left()) == (0.0, 0, (0, 1.0))


def test_only_weights_in_front_of_a_batch_norm_decay(monkeypatch):
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)]
    module = traced(nn.Sequential(*layers), (1, 8, 8))
    phase, _ = phase_of(monkeypatch, lambda: fine_tune(module, images(), epochs=1))
    held, decayed = phase.optimizer.param_groups
    assert (held["weight_decay"], decayed["weight_decay"]) == (0.0, 0.5)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight"]
    assert len(held["params"]) == len(names) - 1


def test_a_graph_that_was_in_a_file_is_traced_again_before_it_is_trained():
    data, kept = images(), graph()
    kept = pickle.loads(pickle.dumps(kept))
    with pytest.raises(GraphError, match="known shape") as caught:
        fine_tune(kept, data, epochs=1)
    assert "vibfx.trace(graph, x)" in str(caught.value)
    x, _ = next(iter(data))
    fine_tune(vibfx.trace(kept, x[:2]), data, epochs=1)


def test_ctrl_c_ends_a_fine_tune_and_keeps_what_has_been_learnt():
    module = graph()
    outcome = fine_tune(module, Interrupting(images(), after=4), epochs=3)
    assert outcome.interrupted
    assert outcome.steps == 4
    assert modes(module) == {False}
    assert not same(module, graph())
