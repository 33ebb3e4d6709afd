"""The staircase, the surcharge, the slope, with times that are known; and one real measurement."""

import numpy as np
import pytest
import torch
from fake_runtime import NOTHING, REORDER, fake_times
from networks import gated, traced
from torch import nn

import vibfx
from vibfx.budgets import cheapest, check_reachable, parse_target
from vibfx.costs import CostModel
from vibfx.errors import TargetError
from vibfx.latency import LatencyModel, latency_model, micro_benchmarks
from vibfx.latency.micro_benchmarks import Whole
from vibfx.selection import land
from vibfx.training.controller import Controller
from vibfx.weighting import Weighting


def chain():
    """Three convolutions: 32 and 64 channels in between."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(16 * 16, 5),
    )


@pytest.fixture(scope="module")
def graph():
    return traced(chain(), (3, 4, 4))


def model_of(graph, whole=NOTHING):
    coupling = vibfx.analyze(graph)
    layout, times = fake_times(graph, coupling, whole=lambda _: whole)
    return LatencyModel(layout, times), coupling


def widths(coupling, *sizes):
    """Keep the first so many units of each group, in the order of the graph."""
    keep = np.zeros(coupling.units, dtype=bool)
    for group, size in zip(coupling.groups, sizes, strict=True):
        keep[group.start : group.start + size] = True
    return keep


def milliseconds(a, b, c):
    """By hand: 3-a-b-c-5, with a, b and c in whole blocks, times plain of what reads odd widths."""

    def conv(first, second):
        up = -(-first // 16) * 16
        if second < 16:
            return up * second / 1000
        if second % 4:
            return 1.5 * first * second / 1000
        return up * (-(-second // 16) * 16) / 1000

    # Between a layer in blocks and one that is not, the elements are laid out anew.
    blocked_b, blocked_c = (w % 4 == 0 or w < 16 for w in (a, b))
    reorder = REORDER * 16 * (a * (not blocked_b) + b * (blocked_b != blocked_c))
    return conv(a, 3) + conv(b, a) + conv(c, b) + reorder + 1.5 * 5 * 16 * c / 1000


@pytest.mark.parametrize(
    "sizes",
    [(32, 64, 16), (31, 64, 16), (28, 64, 16), (17, 33, 16), (32, 63, 16), (20, 18, 9), (32, 1, 1)],
)
def test_staircase_surcharge_and_reordering_by_hand(graph, sizes):
    model, coupling = model_of(graph)
    if sizes[1] < 16:  # what is read directly comes from blocks, and is laid out anew
        expected = milliseconds(*sizes) + REORDER * 16 * sizes[1]
    else:
        expected = milliseconds(*sizes)
    assert model.cost(widths(coupling, *sizes)) == pytest.approx(expected, rel=1e-9)


def test_a_width_that_is_no_multiple_of_4_costs_more_than_the_wider_one(graph):
    model, coupling = model_of(graph)
    at = [model.cost(widths(coupling, 32, width, 16)) for width in (64, 63, 62, 60)]
    assert at[1] > at[0]
    assert at[2] > at[0]
    assert at[3] == pytest.approx(at[0])


def test_unit_costs_are_the_slope_and_not_the_staircase(graph):
    model, coupling = model_of(graph)
    found = model.unit_costs(widths(coupling, 32, 64, 16))
    first, second, third = (found[group.units] for group in coupling.groups)
    assert first == pytest.approx(np.full(32, (3 + 64) / 1000))
    assert second == pytest.approx(np.full(64, (32 + 16) / 1000))
    assert third == pytest.approx(np.full(16, (64 + 1.5 * 16 * 5) / 1000))
    slower = model.unit_costs(widths(coupling, 31, 64, 16))[coupling.groups[0].units]
    assert slower == pytest.approx(np.full(32, (3 + 1.5 * 64) / 1000))


def test_what_is_no_layer_goes_with_its_elements_and_the_rest_stays(graph):
    plain, coupling = model_of(graph)
    full, less = widths(coupling, 32, 64, 16), widths(coupling, 32, 32, 16)
    layers = plain.cost(full)
    model, _ = model_of(graph, Whole(layers + 3.0, layers + 3.5))
    assert model.cost(full) == pytest.approx(layers + 3.5)
    elements = np.array([32 + 64 + 16, 32 + 32 + 16]) * 16  # two ReLUs and the flattening
    left = 0.5 + 3.0 * elements[1] / elements[0]
    assert model.cost(less) == pytest.approx(plain.cost(less) + left)
    more = model.unit_costs(full) - plain.unit_costs(full)
    assert more == pytest.approx(np.full(coupling.units, 3.0 * 16 / elements[0]))


def test_layers_that_take_longer_alone_than_together_leave_nothing_for_the_rest(graph):
    plain, coupling = model_of(graph)
    full = widths(coupling, 32, 64, 16)
    model, _ = model_of(graph, Whole(0.1, 0.2))
    assert model.cost(full) == pytest.approx(plain.cost(full) + 0.1)


def test_a_layer_that_went_takes_no_time():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.one = nn.Conv2d(16, 32, 3, padding=1)
            self.two = nn.Conv2d(32, 16, 3, padding=1)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.head((x + self.two(torch.relu(self.one(x)))).mean((2, 3)))

    model, coupling = model_of(traced(Block(), (3, 4, 4)))
    sizes = {group.name: group for group in coupling.groups}
    keep = np.ones(coupling.units, dtype=bool)
    keep[sizes["one"].units] = False
    assert model.cost(keep) == pytest.approx((16 * 3 + 1.5 * 2 * 16) / 1000)
    assert np.isfinite(model.unit_costs(keep)).all()


def test_a_gated_graph_takes_the_same(graph):
    model, coupling = model_of(graph)
    with_gates, coupled = model_of(gated(graph))
    keep = np.random.default_rng(0).random(coupling.units) < 0.5
    assert coupled.units == coupling.units
    assert with_gates.cost(keep) == pytest.approx(model.cost(keep))


# --- as a budget


def test_several_budgets_are_reached_together(graph):
    model, coupling = model_of(graph)
    costs = CostModel(graph, coupling, latency=lambda: model)
    budgets = parse_target("latency=0.4,flops=0.5,params=0.6")
    check_reachable(budgets, coupling, costs)
    with pytest.raises(TargetError, match=r"latency=0\.0001 cannot be reached"):
        check_reachable(parse_target("latency=0.0001"), coupling, costs)
    shares = Weighting("cost", coupling, costs).shares
    controller = Controller(budgets, costs, coupling.units, shares=shares, updates=5, start=0.05)
    prices = controller.update(np.ones(coupling.units, dtype=bool))
    assert (prices > 0).all()
    scores = np.random.default_rng(0).normal(size=coupling.units)
    least = cheapest("latency", coupling, costs)
    start = np.ones(coupling.units, dtype=bool)
    landed = land(start, scores, controller.met, coupling, least)
    shares = controller.shares(landed)
    assert all(shares[budget.kind] <= budget.share for budget in budgets)
    assert shares["latency"] > 0.3


# --- on this machine


def test_half_of_the_channels_take_less_time_than_all(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(micro_benchmarks, "_SECONDS", 0.2)
    graph = traced(wide(), (3, 16, 16))
    coupling = vibfx.analyze(graph)
    model = latency_model(graph, coupling)
    full = model.cost(np.ones(coupling.units, dtype=bool))
    half = model.cost(widths(coupling, *(group.size // 2 for group in coupling.groups)))
    assert 0 < half < 0.8 * full
    assert (model.unit_costs(np.ones(coupling.units, dtype=bool)) >= 0).all()


def wide():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
