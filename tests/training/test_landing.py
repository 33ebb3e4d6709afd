"""Landing on targets in whole steps of width, and the reserve for that."""

import itertools

import numpy as np
import pytest
import torch
from networks import traced
from torch import nn

import vibfx
from vibfx.budgets import Budget
from vibfx.costs import CostModel
from vibfx.latency import Step
from vibfx.metrics import measure
from vibfx.passes import InsertGates
from vibfx.training.controller import Controller
from vibfx.training.landing import Landing
from vibfx.training.shrinking import measured


def convolutions():
    pairs = itertools.pairwise((3, 40, 64, 64, 96, 128, 4))
    layers = [layer for pair in pairs for layer in (nn.Conv2d(*pair, 3), nn.ReLU())]
    return traced(nn.Sequential(*layers[:-1]).eval(), (3, 16, 16))


class Setting:
    """A gated network, its costs, and random scores."""

    def __init__(self, *budgets, step=8, module=None):
        plain = module or convolutions()
        self.gated = InsertGates(vibfx.analyze(plain))(plain).graph_module
        self.coupling = vibfx.analyze(self.gated)
        self.costs = CostModel(self.gated, self.coupling)
        self.scores = np.random.default_rng(0).normal(0.0, 2.0, self.coupling.units)
        self.controller = Controller(
            budgets, self.costs, self.coupling.units,
            shares=lambda kind, keep: self.costs.unit_costs(kind, keep), updates=4, start=1e-3,
        )  # fmt: skip
        self.asked = 0
        self.landing = Landing(
            self.coupling, self.costs, budgets, self.controller,
            steps=lambda: self.steps(step), latency=lambda: Staircase(self.coupling, 1),
            measured=lambda keep: measured(self.gated, keep),
        )  # fmt: skip

    def steps(self, step):
        self.asked += 1
        return [[Step(step)] * len(self.coupling.groups)]

    @property
    def open(self):
        return self.scores > 0

    def widths(self, keep):
        return [int(keep[group.units].sum()) for group in self.coupling.groups]


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["flops", "params"])
def test_between_97_and_100_percent_with_few_widths_between_steps(kind, share):
    setting = Setting(Budget(kind, share))
    keep = setting.landing.landed(setting.open, setting.scores)
    assert 0.97 <= setting.controller.used(keep) <= 1.0
    assert sum(width % 8 != 0 for width in setting.widths(keep)) <= 1


def test_any_width_where_a_step_is_one():
    setting = Setting(Budget("flops", 0.5), step=1)
    keep = setting.landing.landed(setting.open, setting.scores)
    assert 0.99 <= setting.controller.used(keep) <= 1.0


BOTH = [(0.25, 0.3), (0.5, 0.3)]


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize(("flops", "params"), BOTH)
def test_of_two_budgets_both_are_used_up_as_far_as_half_of_each_group_allows(flops, params, step):
    setting = Setting(Budget("flops", flops), Budget("params", params), step=step)
    singly = setting.landing._in_steps(setting.open, setting.scores)
    keep = setting.landing.landed(setting.open, setting.scores)
    before, after = map(setting.controller.uses, (singly, keep))
    assert min(before.values()) < 0.8
    assert min(after.values()) > 0.88
    assert 0.97 <= max(after.values()) <= 1.0
    widths = np.array([setting.widths(choice) for choice in (singly, keep)])
    assert (widths[1] >= 0.5 * widths[0]).all()


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize(("flops", "params"), [(0.3, 0.4), (0.4, 0.5)])
def test_groups_that_are_down_to_their_better_half_do_not_keep_others_from_giving_way(
    flops, params, step
):
    setting = Setting(Budget("flops", flops), Budget("params", params), step=step)
    keep = setting.landing.landed(setting.open, setting.scores)
    assert all(0.97 <= used <= 1.0 for used in setting.controller.uses(keep).values())


def test_a_budget_that_nothing_can_use_up_changes_nothing():
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    setting = Setting(Budget("flops", 0.5), Budget("params", 0.9), module=traced(network, (6,)))
    keep = setting.landing.landed(setting.open, setting.scores)
    assert keep.sum() == 20
    assert setting.scores[keep].min() > setting.scores[~keep].max()


def test_steps_are_looked_up_once_and_only_to_land():
    setting = Setting(Budget("flops", 0.5))
    setting.landing.with_reserve(setting.open, setting.scores)
    setting.landing.shut(setting.open, setting.scores)
    assert setting.asked == 0
    for _ in range(2):
        setting.landing.landed(setting.open, setting.scores)
    assert setting.asked == 1


def test_without_a_budget_widths_go_up_to_whole_steps():
    setting = Setting()
    keep = setting.landing.rounded_up(setting.open, setting.scores)
    assert all(width % 8 == 0 for width in setting.widths(keep))
    assert (keep | setting.open == keep).all()
    before, after = map(np.array, (setting.widths(setting.open), setting.widths(keep)))
    assert (after - before < 8).all()


def test_the_reserve_is_thirty_percent_beyond_each_target():
    setting = Setting(Budget("flops", 0.5), Budget("params", 0.4))
    few = setting.scores > 2.0
    keep = setting.landing.with_reserve(few, setting.scores)
    shares = setting.controller.shares(keep)
    assert shares["flops"] > 1.3 * 0.5 or shares["params"] > 1.3 * 0.4
    assert min(shares["flops"] / 0.5, shares["params"] / 0.4) == pytest.approx(1.3, rel=0.03)
    assert (keep | few == keep).all()
    all_of_them = np.ones(setting.coupling.units, dtype=bool)
    assert setting.landing.with_reserve(all_of_them, setting.scores).all()


def test_what_is_behind_the_path_is_brought_onto_it():
    setting = Setting(Budget("flops", 0.3))
    everything = np.ones(setting.coupling.units, dtype=bool)
    for _ in range(3):
        setting.controller.update(everything)
    assert not setting.controller.keeps_up(everything)
    keep = setting.landing.shut(everything, setting.scores)
    assert setting.controller.keeps_up(keep)
    assert setting.scores[keep].mean() > setting.scores[~keep].mean()


class Block(nn.Module):
    """A residual block of a transformer without its attention."""

    def __init__(self, width, inner):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x + self.outer(torch.relu(self.inner(self.norm(x))))


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(("width", "inner"), [(32, 40), (48, 96)])
def test_norms_that_go_with_emptied_blocks_leave_room_for_more(width, inner, step):
    blocks = [Block(width, 4) for _ in range(8)]
    ends = nn.Linear(6, width), nn.Linear(width, 3)
    network = nn.Sequential(ends[0], *blocks, Block(width, inner), ends[1])
    module = traced(network.eval(), (6,))
    setting = Setting(Budget("params", 0.4), step=step, module=module)
    for group in setting.coupling.groups:
        setting.scores[group.units] += {4: -20.0}.get(group.size, 20.0)
    keep = setting.landing.landed(setting.open, setting.scores)
    emptied = [g for g in setting.coupling.groups if g.size == 4 and not keep[g.units].any()]
    left = measured(setting.gated, keep).parameters
    assert len(emptied) >= 3
    assert setting.costs.cost("params", keep) - left >= 3 * 2 * 20
    assert 0.97 * 0.4 <= left / measure(module).parameters <= 0.4


class Staircase:
    """A runtime that computes so many channels of every layer at once."""

    def __init__(self, coupling, block):
        self.coupling, self.block = coupling, block

    def cost(self, keep):
        widths = [int(keep[group.units].sum()) for group in self.coupling.groups]
        padded = [3, *(-(-width // self.block) * self.block for width in widths), 4]
        return float(sum(a * b for a, b in itertools.pairwise(padded)))


@pytest.mark.parametrize(("block", "step"), [(1, 4), (32, 32)])
def test_the_finest_steps_with_which_time_is_saved_as_flops_are(block, step):
    setting = Setting(Budget("flops", 0.4))
    setting.landing._latency = Staircase(setting.coupling, block)
    groups = len(setting.coupling.groups)
    setting.landing._steps = [[Step(size)] * groups for size in (4, 16, 32)]
    keep = setting.landing.landed(setting.open, setting.scores)
    assert 0.97 <= setting.controller.used(keep) <= 1.0
    setting.landing._steps = [[Step(step)] * groups]
    assert np.array_equal(keep, setting.landing.landed(setting.open, setting.scores))
