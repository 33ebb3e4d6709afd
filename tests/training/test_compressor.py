"""Steering a gated graph to its targets from within a loop of one's own."""

import copy
import math

import numpy as np
import pytest
import torch
from networks import Residual, gated, traced
from tasks import graph, images, one_thread  # noqa: F401
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.costs import CostModel
from vibfx.errors import PlanError, TargetError
from vibfx.gates import gates_of
from vibfx.latency import Step
from vibfx.passes import PruneChannels, SelectInputs, SetMode
from vibfx.training import Compressor, parameter_groups
from vibfx.training import compressor as compressor_module
from vibfx.training import landing as landing_module
from vibfx.training.compressor import _SETTLED, WAY, _first_price
from vibfx.training.shrinking import shrink, whole_of

STEPS = 100


def start(module=None, lr=5e-3, **options):
    """A gated graph in training mode, its optimizer and its compressor."""
    module = module or gated(graph())
    SetMode(training=True)(module)
    optimizer = torch.optim.Adam(parameter_groups(module, lr))
    options = {"target": "flops=0.4", "steps": STEPS} | options
    return module, optimizer, Compressor(module, optimizer, **options)


def run(module, optimizer, compressor, steps=STEPS):
    batches = images()
    for step in range(steps):
        x, labels = batches[step % len(batches)]
        loss = F.cross_entropy(module(x), labels) + compressor.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        compressor.step()


def flops_left(module):
    SetMode(training=False)(module)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    return vibfx.measure(small).flops / vibfx.measure(module).flops


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("shrinking", [True, False])
def test_any_loop_lands_on_the_target(shrinking):
    module, optimizer, compressor = start(shrinking=shrinking)
    full = parameters(module)
    run(module, optimizer, compressor)
    assert compressor.arrived
    assert (parameters(module) < full) is shrinking
    assert compressor.left()[1] == pytest.approx(0.38, abs=0.02)
    compressor.finish()
    assert parameters(module) == full
    assert 0.36 < flops_left(module) <= 0.4


def wide():
    torch.manual_seed(0)
    return gated(
        traced(
            nn.Sequential(
                nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU(),
                nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4),
            ).eval(),
            (1, 8, 8),
        )
    )  # fmt: skip


def left_open(module):
    return [int(gate.open().sum()) for gate in gates_of(module).values()]


def test_a_graph_that_was_shrunk_before_lands_on_the_target_of_the_whole():
    module = gated(graph())
    for gate in gates_of(module).values():
        gate.mu.detach()[:2] = 0.0
    assert shrink(module)
    module, optimizer, compressor = start(module)
    assert compressor.left()[1] < 1.0
    run(module, optimizer, compressor)
    compressor.finish()
    assert 0.37 < flops_left(module) <= 0.4


@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_widths_are_landed_on_in_whole_steps(round_to):
    module, optimizer, compressor = start(wide(), target="flops=0.5", round_to=round_to)
    run(module, optimizer, compressor)
    compressor.finish()
    widths = left_open(module)
    assert sum(width % round_to != 0 for width in widths) <= 1
    assert 0.485 <= flops_left(module) <= 0.5


def test_by_default_widths_are_what_the_runtime_of_this_machine_computes_at_once(monkeypatch):
    asked = []

    def steps(whole, coupling, shares, round_to):
        asked.append((round_to, whole.graph is module.graph, shares.size))
        return [[Step(16)] * len(coupling.groups)]

    monkeypatch.setattr(compressor_module, "unit_steps", steps)
    module, optimizer, compressor = start(wide(), target="params=0.7")
    run(module, optimizer, compressor)
    compressor.finish()
    assert asked == [(None, False, 24 + 32)]
    assert sum(width not in (16, 24, 32) for width in left_open(module)) <= 1


def test_with_a_gamma_widths_go_up_to_whole_steps_where_that_is_told():
    module, _, compressor = start(wide(), target=None, gamma=1e-3, round_to=8)
    first, second = gates_of(module).values()
    first.open_exactly(torch.arange(24) < 13)
    second.open_exactly(torch.arange(32) < 5)
    compressor.finish()
    assert left_open(module) == [16, 5]


def test_steps_of_no_channel_are_refused_at_once():
    with pytest.raises(PlanError, match="widths cannot be multiples of 0"):
        start(round_to=0)


def test_features_of_the_input_go_with_the_channels():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))
    graph = SelectInputs()(traced(net, (1, 8, 8))).graph_module
    module, optimizer, compressor = start(gated(graph), target="flops=0.2")
    run(module, optimizer, compressor)
    assert compressor.arrived
    assert module.get_buffer("inputs.input_1").numel() < 40
    compressor.finish()
    assert module.get_buffer("inputs.input_1").tolist() == list(range(64))
    assert 0.17 < flops_left(module) <= 0.2


def test_units_are_shut_on_the_way_where_no_gate_does_by_itself():
    module, _, compressor = start()  # the optimizer is never called
    left, prices = [1.0], []
    while not compressor.arrived:
        prices.append(sum(compressor._gamma.values()))
        compressor.step()
        left.append(compressor.left()[1])
    steps = len(prices)
    assert 0.8 * WAY * STEPS <= steps <= WAY * STEPS
    assert set(left[: steps // 3]) == {1.0}
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 6
    assert prices[steps // 2] > 2 * prices[0] > 0
    assert sum(compressor._gamma.values()) == pytest.approx(_SETTLED * prices[-1])
    assert module.get_parameter("gates.0.mu").numel() < 8


def test_they_are_met_on_the_way_where_the_gates_shut():
    module, optimizer, compressor = start(target="flops=0.9")
    run(module, optimizer, compressor, round(WAY * STEPS) - 2)
    assert compressor.arrived


def test_a_gamma_is_the_weight_of_every_gate_and_stays():
    module, _, compressor = start(target=None, gamma=0.25)
    expected = 0.25 * sum(gate.information().item() for gate in gates_of(module).values())
    for _ in range(STEPS):
        assert compressor.penalty().item() == pytest.approx(expected, rel=1e-6)
        compressor.step()
    assert not compressor.arrived


def test_without_a_target_the_gates_decide():
    module, _, compressor = start(target=None, gamma=0.25)
    first = next(iter(gates_of(module).values()))
    with torch.no_grad():
        first.mu[:3] = 0.0
    compressor.finish()
    assert [int(gate.open().sum()) for gate in gates_of(module).values()] == [5, 12, 16]


def test_what_is_settled_stays_open_at_half_the_price():
    module, optimizer, compressor = start()
    run(module, optimizer, compressor, 60)
    assert compressor.arrived
    name, gate = next(iter(gates_of(module).items()))
    price, opened = compressor._gamma[name], gate.open()
    with torch.no_grad():
        gate.mu[int(opened.nonzero()[0])] = 0.0
    compressor.step()
    assert torch.equal(gate.open(), opened)
    assert compressor._gamma[name] == price / 2
    compressor.step()
    assert compressor._gamma[name] == price / 2


def test_what_is_held_shut_lets_nothing_through_and_does_not_open():
    module, optimizer, compressor = start(shrinking=False)
    run(module, optimizer, compressor, 60)
    shut = {name: ~gate.open() for name, gate in gates_of(module).items()}
    assert all(bool(found.any()) for found in shut.values())
    run(module, optimizer, compressor, 20)
    for name, gate in gates_of(module).items():
        assert torch.equal(~gate.open(), shut[name])
        assert not gate.mu[shut[name]].any()
        values = gate(torch.zeros(2, gate.units))
        assert float(values.detach()[:, shut[name]].abs().max()) < 1e-9


def test_a_block_that_goes_is_held_shut_until_the_end():
    torch.manual_seed(0)
    net = gated(traced(Residual(8, classes=4), (1, 8, 8)))
    module, optimizer, compressor = start(net, target="params=0.02", steps=40)
    run(module, optimizer, compressor, 40)
    assert compressor.arrived
    compressor.finish()
    SetMode(training=False)(module)
    plan = vibfx.plan(module)
    assert 0 in {len(group.kept) for group in plan.groups}
    small = PruneChannels(plan)(module).graph_module
    assert vibfx.measure(small).parameters <= 0.02 * vibfx.measure(module).parameters
    assert vibfx.verify(module, small, tolerance=1e-6)  # the constants are float32


@pytest.mark.parametrize("at", [10, 60])
def test_it_goes_on_from_its_state(at):
    module, optimizer, compressor = start()
    run(module, optimizer, compressor, at)
    state = copy.deepcopy(compressor.state_dict())
    other, its_optimizer, again = start()
    again.load_state_dict(state)
    other.load_state_dict(module.state_dict())
    its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in ((module, optimizer, compressor), (other, its_optimizer, again)):
        torch.manual_seed(1)
        run(*each, 100 - at)
        each[2].finish()
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_broken_off_it_leaves_what_the_gates_say():
    module, optimizer, compressor = start()
    run(module, optimizer, compressor, 3)
    compressor.finish(to_target=False)
    assert np.all([gate.open().all() for gate in gates_of(module).values()])


@pytest.mark.parametrize("options", [{"target": None}, {"gamma": 1e-3}, {"is_good": bool}])
def test_one_thing_says_which_gates_are_to_shut(options):
    with pytest.raises(PlanError, match="nothing says which gates are to shut, or too much does"):
        start(**options)


# --- for as long as the network is good enough


def open_share(asked):
    gates = gates_of(asked).values()
    return sum(int(gate.open().sum()) for gate in gates) / sum(gate.units for gate in gates)


@pytest.mark.parametrize("shrinking", [True, False])
def test_the_network_is_what_it_was_when_it_last_was_good_enough(shrinking):
    asked = []

    def is_good(copy):
        assert copy is not module
        assert not any(gate.training for gate in gates_of(copy).values())
        left = int(sum(gate.open().sum() for gate in gates_of(copy).values()))
        asked.append(left)
        return left >= 20

    module, optimizer, compressor = start(
        target=None, is_good=is_good, shrinking=shrinking, steps=200
    )
    run(module, optimizer, compressor, 200)
    assert compressor.arrived
    compressor.finish()
    found = int(sum(gate.open().sum() for gate in gates_of(module).values()))
    assert found == [left for left in asked if left >= 20][-1]
    assert found < 30


def test_what_is_never_good_enough_stays_whole():
    module, optimizer, compressor = start(target=None, is_good=lambda graph: False)
    run(module, optimizer, compressor)
    compressor.finish()
    assert open_share(module) == 1.0


def test_what_is_always_good_enough_goes_on_down():
    module, optimizer, compressor = start(target=None, is_good=lambda graph: True, steps=300)
    run(module, optimizer, compressor, 300)
    compressor.finish()
    assert flops_left(module) < 0.1


def test_an_optimizer_without_the_gates_is_refused():
    module = gated(graph())
    weights = parameter_groups(module, 1e-3)[0]["params"]
    with pytest.raises(PlanError, match="does not train the gates"):
        Compressor(module, torch.optim.Adam(weights), target="flops=0.4", steps=10)


def test_a_target_out_of_reach_is_refused():
    with pytest.raises(TargetError, match="cannot be reached"):
        start(target="flops=0.0001")


@pytest.mark.parametrize(
    ("target", "kind", "reserve"),
    [("flops=0.35", "flops", 0.455), ("flops=0.04,params=0.3", "params", 0.39)],
    ids=["one-target", "one-of-two-targets-is-met-before-the-other"],
)
def test_of_units_that_are_shut_some_stay_in_reserve(monkeypatch, target, kind, reserve):
    """What shuts beyond a target does not go: it may be wanted to land on the target."""
    monkeypatch.setattr(landing_module, "aligned", lambda keep, *_: keep)
    module, _, compressor = start(target=target, steps=1000)
    gates = gates_of(module)
    with torch.no_grad():
        for gate in gates.values():
            gate.mu[gate.units // 4 :] = 0.0
        gates["gates.0"].mu.fill_(1.0)
    compressor._done = compressor._interval - 1
    left = compressor._open()
    compressor.step()
    there = whole_of(module).keep
    assert there[left].all()
    assert left.sum() < there.sum() < there.size
    assert shares(module, there)[kind] <= reserve
    for unit in np.flatnonzero(~there):
        one_more = there | (np.arange(there.size) == unit)
        assert shares(module, one_more)[kind] > reserve


def test_nothing_stays_in_reserve_far_from_the_targets():
    module, _, compressor = start(target="flops=0.05", steps=1000)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu[gate.units // 2 :] = 0.0
    compressor._done = compressor._interval - 1
    left = compressor._landing.aligned(compressor._open(), compressor._above())
    compressor.step()
    assert np.array_equal(whole_of(module).keep, left)


def test_widths_are_multiples_of_four_on_the_way():
    module, _, compressor = start(wide(), target="flops=0.05", steps=1000)
    with torch.no_grad():
        for gate, left in zip(gates_of(module).values(), (13, 9), strict=True):
            gate.mu[left:] = 0.0
    compressor._done = compressor._interval - 1
    compressor.step()
    assert left_open(module) == [13, 9]
    assert [gate.units for gate in gates_of(module).values()] == [16, 12]


def shares(module, keep):
    """What is left of each cost with these units."""
    costs = CostModel(whole_of(module).module, whole_of(module).coupling)
    full = np.ones_like(keep)
    return {kind: costs.cost(kind, keep) / costs.cost(kind, full) for kind in ("flops", "params")}


@pytest.mark.parametrize(
    ("way", "share"), [(0.0, 1.0), (4.0, math.exp(-0.5)), (8.0, math.exp(-1.0)), (100.0, 0.3)]
)
def test_prices_start_lower_on_a_longer_way(way, share):
    assert _first_price(way) == pytest.approx(share * _first_price(0.0))
