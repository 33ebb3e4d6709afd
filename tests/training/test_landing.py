"""Landing on targets in whole steps of width, and the reserve for that."""

import itertools

import numpy as np
import pytest
from networks import traced
from torch import nn

import vibfx
from vibfx.budgets import Budget, Controller
from vibfx.costs import CostModel
from vibfx.training.landing import Landing


class Setting:
    """A network of six convolutions, its costs, and random scores."""

    def __init__(self, *budgets, step=8):
        pairs = itertools.pairwise((3, 40, 64, 64, 96, 128, 4))
        layers = [layer for pair in pairs for layer in (nn.Conv2d(*pair, 3), nn.ReLU())]
        module = traced(nn.Sequential(*layers[:-1]).eval(), (3, 16, 16))
        self.coupling = vibfx.analyze(module)
        self.costs = CostModel(module, self.coupling)
        self.scores = np.random.default_rng(0).normal(0.0, 2.0, self.coupling.units)
        self.controller = Controller(
            budgets, self.costs, self.coupling.units,
            shares=lambda kind, keep: self.costs.unit_costs(kind, keep), updates=4, start=1e-3,
        )  # fmt: skip
        self.asked = 0
        self.landing = Landing(
            self.coupling, self.costs, budgets, self.controller, lambda: self.steps(step)
        )

    def steps(self, step):
        self.asked += 1
        return [step] * len(self.coupling.groups)

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
