"""The two phases with gates, one by one."""

import math

import pytest
import torch
from networks import gated
from tasks import Interrupting, graph, images, one_thread  # noqa: F401
from torch.nn import functional as F

import vibfx
from vibfx.gates import gates_of
from vibfx.training.compressor import WAY
from vibfx.training.gated_training import GatedTraining, _scale
from vibfx.training.objectives import Objective, Supervised

BATCHES = 5


def training(module, loader=None, *, target="flops=0.4", gamma=None, epochs=20, **options):
    """Such a training with what ``train`` passes by default."""
    return GatedTraining(
        module,
        loader or images(batches=BATCHES),
        objective=Supervised(),
        target=target,
        gamma=gamma,
        is_good=None,
        weights=None,
        epochs=epochs,
        lr=5e-3,
        **options,
    )


def flops_left(module):
    small = vibfx.passes.PruneChannels(vibfx.plan(module))(module).graph_module
    return vibfx.measure(small).flops / vibfx.measure(module).flops


def test_compressing_ends_where_the_target_is_met():
    module = gated(graph())
    run = training(module)
    outcome = run.compress()
    assert not outcome.interrupted
    assert outcome.steps <= WAY * 20 * BATCHES
    assert run.epochs_left == pytest.approx(20 - outcome.steps / BATCHES)
    run.finish()
    assert 0.37 < flops_left(module) <= 0.4


def test_settling_takes_the_rest_and_stays_on_target():
    module = gated(graph())
    run = training(module)
    first = run.compress()
    second = run.settle()
    assert first.steps + second.steps == 20 * BATCHES
    assert run.epochs_left == 0.0
    run.finish()
    assert 0.37 < flops_left(module) <= 0.4


def test_rates_stay_on_the_way_down_and_fall_to_zero_while_what_is_left_settles():
    run = training(gated(graph()))
    rates = lambda: [group["lr"] for group in run._optimizer.param_groups]  # noqa: E731
    first = rates()
    run.compress()
    assert rates() == first
    run.settle()
    assert rates() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_with_a_gamma_there_is_nothing_to_arrive_at():
    run = training(gated(graph()), target=None, gamma=1e-3, epochs=3)
    assert run.compress().steps == 3 * BATCHES
    assert run.epochs_left == 0.0


@pytest.mark.parametrize("phase", ["compress", "settle"])
def test_a_failure_leaves_the_graph_in_its_full_shape(phase):
    module = gated(graph())
    shapes = {name: p.shape for name, p in module.named_parameters()}
    after = 25 if phase == "compress" else 60
    run = training(module, Interrupting(images(batches=BATCHES), after, RuntimeError))
    if phase == "settle":
        run.compress()
    with pytest.raises(RuntimeError):
        getattr(run, phase)()
    assert {name: p.shape for name, p in module.named_parameters()} == shapes


def test_prices_are_in_proportion_to_the_data_term():
    """The same loss in another unit, which Adam does not mind."""
    left = {}
    for unit in (1.0, 1000.0):
        module, seen = gated(graph()), []
        objective = Supervised(
            lambda outputs, labels, unit=unit: unit * F.cross_entropy(outputs, labels)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vibfx.training.meter, "_REPORT_EVERY", 0.0)
            GatedTraining(
                module,
                images(),
                objective=objective,
                target="flops=0.3",
                gamma=None,
                is_good=None,
                weights=None,
                epochs=20,
                lr=5e-3,
                on_progress=lambda state, seen=seen: seen.append(state.units_left),
            ).compress()
        left[unit] = seen
    assert left[1.0] == pytest.approx(left[1000.0], abs=2)


def test_the_scale_is_the_data_term_where_nothing_is_told_apart():
    module, loader = gated(graph()), images()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x, labels = loader[0]
    with torch.no_grad():
        shut = module.get_submodule("10").bias.expand(len(x), -1)
    assert _scale(module, loader, Supervised()) == pytest.approx(
        F.cross_entropy(shut, labels).item(), rel=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert {gate.training for gate in gates_of(module).values()} == {False}


@pytest.mark.parametrize("value", [0.0, -2.0, math.nan, math.inf])
def test_a_scale_that_says_nothing_is_one(value):
    class Constant(Objective):
        def forward(self, outputs, x, labels):
            return torch.tensor(value)

    assert _scale(gated(graph()), images(), Constant()) == 1.0
