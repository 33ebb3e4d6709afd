"""Training gates to a target, and fine-tuning, on a task of seconds."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import Residual, gated, traced
from tasks import Interrupting, graph, images, modes, one_thread, phase_of, same, training_accuracy  # noqa: F401
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.budgets import parse_target
from vibfx.costs import CostModel
from vibfx.errors import InputError, PlanError, TargetError
from vibfx.gates import gates_of
from vibfx.passes import FoldGates, PruneChannels
from vibfx.planning import unit_log_alpha
from vibfx.training import gated_training
from vibfx.training.engine import Hardware
from vibfx.training.phases import default_epochs, fine_tune, train

QUICK = {"epochs": 20, "lr": 5e-3}


def gated_net(seed=0):
    return gated(graph(seed))


def open_units(module, coupling):
    keep = np.zeros(coupling.units, dtype=bool)
    for name, units in coupling.gate_units(module).items():
        keep[units[gates_of(module)[name].open().numpy()]] = True
    return keep


# --- the target


@pytest.fixture(scope="module", params=["flops=0.4", "params=0.2", "flops=0.5,params=0.3"])
def landed(request):
    module = gated_net()
    outcome = train(module, images(), target=request.param, **QUICK)
    return request.param, module, outcome


def test_the_target_is_met_never_exceeded_and_used_up(landed):
    target, module, _ = landed
    coupling = vibfx.analyze(module)
    costs = CostModel(module, coupling)
    full = np.ones(coupling.units, dtype=bool)

    def within(units):
        return all(
            costs.cost(b.kind, units) / costs.cost(b.kind, full) <= b.share
            for b in parse_target(target)
        )

    keep = open_units(module, coupling)
    assert within(keep)
    assert not within(full)
    scores = np.where(keep, -np.inf, unit_log_alpha(module, coupling))
    next_best = np.argmax(scores)
    # A unit whose mean is zero is not opened again; else the next in rank would be too much.
    if np.isfinite(scores[next_best]):
        keep[next_best] = True
        assert not within(keep)


def test_the_plan_keeps_exactly_the_open_units_and_the_cut_graph_is_equal(landed):
    target, module, _ = landed
    plan = vibfx.plan(module)
    coupling = vibfx.analyze(module)
    keep = open_units(module, coupling)
    for group, planned in zip(coupling.groups, plan.groups, strict=True):
        assert planned.kept == tuple(np.flatnonzero(keep[group.units]).tolist())
        assert planned.kept
    small = vibfx.passes.PruneChannels(plan)(module).graph_module
    assert vibfx.verify(module, small).error < 1e-9
    before, after = vibfx.measure(module), vibfx.measure(small)
    left = {"flops": after.flops / before.flops, "params": after.parameters / before.parameters}
    for budget in parse_target(target):
        assert left[budget.kind] <= budget.share


def test_training_takes_the_epochs_asked_for(landed):
    _, _, outcome = landed
    assert outcome.steps == 20 * 5
    assert not outcome.interrupted
    assert math.isfinite(outcome.loss)


def test_afterwards_the_graph_is_in_evaluation_mode_on_the_cpu(landed):
    _, module, _ = landed
    assert modes(module) == {False}
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_the_network_has_learnt_the_task(landed):
    _, module, _ = landed
    found = training_accuracy(module)
    assert found > 0.9  # chance is 0.25
    assert found > training_accuracy(gated_net()) + 0.3


def test_the_seed_fixes_the_result():
    first, again, other = (gated_net() for _ in range(3))
    for module, seed in ((first, 1), (again, 1), (other, 2)):
        train(module, images(), target="flops=0.4", seed=seed, epochs=3)
    assert same(first, again)
    assert not same(first, other)


def test_budgets_may_be_handed_in_ready_made():
    first, again = gated_net(), gated_net()
    train(first, images(), target="flops=0.4", epochs=2)
    train(again, images(), target=parse_target("flops=0.4"), epochs=2)
    assert same(first, again)


# --- the objective


def test_the_objective_is_the_data_term_plus_the_information():
    """Equation (9): one step of gradient descent, with the noise switched off."""
    module, (batch,) = gated_net(), images(batches=1)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.log_sigma2.fill_(-60.0)
    gamma = 0.01
    name = next(n for n, _ in module.named_parameters() if n.endswith(".mu"))
    reference = copy.deepcopy(module)
    vibfx.passes.SetMode(training=True)(reference)
    torch.manual_seed(0)
    loss = F.cross_entropy(reference(batch[0]), batch[1]) + gamma * sum(
        torch.log1p(gate.mu.square() / gate.log_sigma2.exp()).sum()
        for gate in gates_of(reference).values()
    )
    loss.backward()
    expected = reference.get_parameter(name).grad

    caught = []
    original = gated_training.fit

    def fit(module, loader, phase, **options):
        rate = 1e-3
        phase.optimizer = torch.optim.SGD(module.parameters(), lr=rate)
        start = module.get_parameter(name).detach().clone()
        outcome = original(module, loader, phase, **options)
        caught.append((start - module.get_parameter(name).detach()) / rate)
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gated_training, "fit", fit)
        patch.setattr(vibfx.training.engine, "_has_bfloat16", lambda device: False)
        train(module, [batch], target=None, gamma=gamma, epochs=1, seed=0)
    assert torch.allclose(caught[0], expected, rtol=0, atol=2e-3 * float(expected.abs().max()))


def test_gates_learn_thirty_times_as_fast(monkeypatch):
    module = gated_net()
    phase, _ = phase_of(monkeypatch, lambda: train(module, images(), lr=2e-3))
    weights, gates = phase.optimizer.param_groups
    of_gates = {id(p) for gate in gates_of(module).values() for p in (gate.mu, gate.log_sigma2)}
    assert {id(p) for p in gates["params"]} == of_gates
    assert {id(p) for p in weights["params"]} == {id(p) for p in module.parameters()} - of_gates
    assert weights["lr"] == 2e-3
    assert gates["lr"] == pytest.approx(30 * 2e-3, rel=1e-12)


def test_the_means_never_fall_below_zero():
    module, seen = gated_net(), []

    def watch(_):
        seen.append(min(gate.mu.min().item() for gate in gates_of(module).values()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vibfx.training.meter, "_REPORT_EVERY", 0.0)
        train(module, images(), target=None, gamma=1.0, lr=1e-2, epochs=4, on_progress=watch)
    assert len(seen) == 20
    assert min(seen) == 0.0  # they would have


def test_a_larger_gamma_shuts_more():
    left = {}
    for gamma in (1e-4, 1e-2):
        module = gated_net()
        outcome = train(module, images(), target=None, gamma=gamma, **QUICK)
        assert outcome.steps == 20 * 5
        left[gamma] = int(open_units(module, vibfx.analyze(module)).sum())
    assert left[1e-2] < left[1e-4] <= 36


def test_progress_of_training():
    module, seen = gated_net(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vibfx.training.meter, "_REPORT_EVERY", 0.0)
        train(module, images(), target="flops=0.4", on_progress=seen.append, **QUICK)
    assert list(dict.fromkeys((p.phase, p.units) for p in seen)) == [
        ("compress", 36),
        ("settle", 36),
    ]
    assert (seen[0].units_left, seen[0].flops_left) == (36, 1.0)
    assert seen[-1].units_left < 36
    assert seen[-1].flops_left < 0.7
    for phase in ("compress", "settle"):
        done = [p.done for p in seen if p.phase == phase]
        assert done == sorted(done)
        assert 0.0 < done[0] < done[-1] <= 1.0


# --- how it ends otherwise


def test_ctrl_c_keeps_what_has_been_learnt_and_shuts_nothing():
    module = gated_net()
    start = copy.deepcopy(module)
    # One batch is looked at before the first step.
    outcome = train(module, Interrupting(images(), after=4), target="flops=0.1", epochs=5)
    assert outcome.interrupted
    assert outcome.steps == 3
    assert open_units(module, vibfx.analyze(module)).all()
    assert modes(module) == {False}
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert not same(module, start)


def test_a_graph_without_gates_is_refused():
    with pytest.raises(PlanError, match="the graph has no gates"):
        train(graph(), images())


def test_a_target_and_a_gamma_are_refused():
    with pytest.raises(PlanError, match="nothing says which gates are to shut, or too much does"):
        train(gated_net(), images(), target="flops=0.5", gamma=1e-3)


def test_the_target_is_half_of_the_flops_where_none_is_given():
    module = gated_net()
    full = vibfx.measure(module).flops
    train(module, images(), epochs=2, lr=5e-3)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert 0.4 < vibfx.measure(small).flops / full <= 0.5


@pytest.mark.parametrize("target", ["half", "flops=0.0001"])
def test_a_target_that_cannot_be_met_is_refused_before_anything_is_trained(target):
    module = gated_net()
    with pytest.raises(TargetError):
        train(module, images(), target=target)
    assert same(module, gated_net())
    assert modes(module) == {False}


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="there is no device 'toaster'"):
        train(gated_net(), images(), hardware=Hardware("toaster"))


def test_training_goes_on_where_every_gate_is_shut_for_the_moment():
    """One hidden layer of which nothing is left: nothing would be left of the FLOPs either."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4))
    module = gated(traced(model, (1, 8, 8)))
    (gate,) = gates_of(module).values()
    with torch.no_grad():
        gate.log_sigma2.copy_(torch.linspace(3.0, 5.0, 20))
    train(module, images(), target="flops=0.5", lr=1e-5, epochs=1)
    assert gate.open().tolist() == [True] * 10 + [False] * 10  # the best half


def test_units_that_lost_their_mean_come_back_to_land_on_the_target():
    module = gated_net()
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu.zero_()
    train(module, images(batches=1), target="flops=0.5", epochs=1, lr=0.0)
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    for gate in gates_of(module).values():
        assert set(gate.mu[gate.open()].tolist()) == {1.0}
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert 0.485 <= vibfx.measure(small).flops / vibfx.measure(module).flops <= 0.5


@pytest.mark.parametrize(
    ("batches", "epochs"),
    [(1, 400), (12, 400), (13, 385), (40, 125), (100, 50), (1000, 8), (10**6, 8)],
)
def test_some_5000_steps_by_default(batches, epochs):
    assert default_epochs(range(batches)) == epochs


# --- where whole blocks go


def test_a_harsh_target_shuts_whole_blocks_and_the_rest_trains_on():
    torch.manual_seed(0)
    module = gated(traced(Residual(8, classes=4), (1, 8, 8)))
    train(module, images(), target="params=0.02", epochs=3, lr=5e-3)
    plan = vibfx.plan(module)
    assert 0 in {len(group.kept) for group in plan.groups}
    small = FoldGates()(PruneChannels(plan)(module).graph_module).graph_module
    before = {name: value.clone() for name, value in small.named_parameters()}
    fine_tune(small, images(), epochs=1)
    constants = [name for name in before if name.endswith("_constant")]
    assert constants
    for name in constants:
        assert not torch.equal(before[name], small.get_parameter(name))


def test_a_price_that_shuts_every_gate_leaves_one_way_through():
    torch.manual_seed(0)
    module = gated(traced(Residual(4, classes=4), (1, 8, 8)))
    train(module, images(), target=None, gamma=10.0, epochs=3, lr=5e-3)
    kept = {group.name: len(group.kept) for group in vibfx.plan(module).groups}
    assert kept == {"stem.0": 1, "block1.conv1": 0, "block2.conv1": 0, "block2.conv2": 1}
