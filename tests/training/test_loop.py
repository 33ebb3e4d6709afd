"""The training loop: what it optimizes, when it stops, what it reports and what it leaves."""

import math

import pytest
import torch
from networks import traced
from tasks import Interrupting, graph, images, modes, one_thread, same  # noqa: F401
from torch import nn
from torch.nn import functional as F

from vibfx.errors import DivergenceError
from vibfx.training import engine, meter
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.engine import Hardware
from vibfx.training.loop import fit
from vibfx.training.objectives import Supervised

CPU = torch.device("cpu")
ON_CPU = Hardware("cpu")


class Phase:
    """Plain gradient descent."""

    name = "test"
    units = 7

    def __init__(self, module, *, lr=0.1, penalty=None):
        self.optimizer = torch.optim.SGD(module.parameters(), lr=lr)
        self.penalty = penalty or (lambda: 0.0)
        self.steps = 0

    def after_step(self):
        self.steps += 1

    def is_over(self):
        return False

    def left(self):
        return 5, 0.25

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"]


def linear(seed=0):
    torch.manual_seed(seed)
    return traced(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 8, 8))


def run(module, loader, phase, *, epochs=1, seed=0, on_progress=None, checkpoint=None):
    phase.epochs = epochs
    return fit(
        module,
        loader,
        phase,
        objective=Supervised(),
        hardware=ON_CPU,
        seed=seed,
        on_progress=on_progress,
        checkpoint=checkpoint,
    )


@pytest.fixture
def every_step(monkeypatch):
    """Report after each step."""
    monkeypatch.setattr(meter, "_REPORT_EVERY", 0.0)


@pytest.fixture
def in_float32(monkeypatch):
    """Whatever the processor can do."""
    monkeypatch.setattr(engine, "_has_bfloat16", lambda device: False)


# --- what is optimized


@pytest.mark.usefixtures("in_float32")
def test_a_step_descends_the_data_term_plus_the_penalty():
    module, (batch,) = linear(), images(batches=1)
    weight = module.get_parameter("1.weight")
    before = weight.detach().clone().requires_grad_()
    bias = module.get_parameter("1.bias").detach().clone()
    objective = F.cross_entropy(F.linear(batch[0].flatten(1), before, bias), batch[1])
    objective = objective + 0.3 * before.square().sum()
    (gradient,) = torch.autograd.grad(objective, before)

    run(module, [batch], Phase(module, penalty=lambda: 0.3 * weight.square().sum()))

    expected = before.detach() - 0.1 * gradient
    assert torch.allclose(weight, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(weight, before, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("every_step", "in_float32")
def test_the_loss_reported_is_the_data_term_alone():
    module, (batch,) = linear(), images(batches=1)
    with torch.no_grad():
        outputs = module(batch[0])
    seen = []
    outcome = run(module, [batch], Phase(module, penalty=lambda: 100.0), on_progress=seen.append)
    data_term = float(F.cross_entropy(outputs, batch[1]))
    assert outcome.loss == pytest.approx(data_term, rel=1e-6)
    assert seen[0].loss == pytest.approx(data_term, rel=1e-6)
    assert seen[0].accuracy == float((outputs.argmax(1) == batch[1]).float().mean())


def test_in_bfloat16_parameters_stay_float32_and_the_step_is_nearly_the_same(monkeypatch):
    batches, weights = images(batches=1), []
    for half in (False, True):
        monkeypatch.setattr(engine, "_has_bfloat16", lambda device, half=half: half)
        module = linear()
        run(module, batches, Phase(module))
        weights.append(module.get_parameter("1.weight").detach())
    assert weights[1].dtype == torch.float32
    assert not torch.equal(*weights)
    step = weights[0] - linear().get_parameter("1.weight").detach()
    assert (weights[0] - weights[1]).abs().max() < 0.05 * step.abs().max()


def test_the_seed_fixes_dropout_and_nothing_else_is_random():
    first, again, other = (graph() for _ in range(3))
    for module, seed in ((first, 3), (again, 3), (other, 4)):
        run(module, images(), Phase(module), epochs=2, seed=seed)
    assert same(first, again)
    assert not same(first, other)


# --- when it stops


def test_every_batch_of_every_epoch_is_one_step():
    module = linear()
    phase = Phase(module)
    outcome = run(module, images(batches=5), phase, epochs=3)
    assert outcome.steps == 15
    assert phase.steps == 15
    assert not outcome.interrupted


def test_ctrl_c_keeps_what_there_is_and_leaves_the_graph_ready_to_use():
    module, steps = graph(), 7
    outcome = run(module, Interrupting(images(), after=steps), Phase(module), epochs=3)
    assert outcome.interrupted
    assert outcome.steps == steps
    assert math.isfinite(outcome.loss)
    assert modes(module) == {False}
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    as_far = graph()
    run(as_far, [*images(), *images()][:steps], Phase(as_far))
    assert same(module, as_far)
    assert not same(module, graph())


def test_any_other_exception_passes_and_the_graph_is_left_ready_to_use():
    module = graph()
    with pytest.raises(ZeroDivisionError):
        run(module, Interrupting(images(), after=3, error=ZeroDivisionError), Phase(module))
    assert modes(module) == {False}


def test_it_trains_in_training_mode_and_leaves_evaluation_mode():
    module, seen = graph(), []
    assert modes(module) == {False}

    def penalty():
        seen.append(modes(module))
        return 0.0

    statistics = module.state_dict()["1.running_mean"].clone()
    run(module, images(batches=2), Phase(module, penalty=penalty))
    assert seen == [{True}, {True}]
    assert modes(module) == {False}
    assert not torch.equal(module.state_dict()["1.running_mean"], statistics)


# --- what it reports


@pytest.mark.usefixtures("every_step")
def test_progress_after_every_step():
    module, seen = linear(), []
    outcome = run(module, images(batches=4), Phase(module), epochs=3, on_progress=seen.append)
    assert [p.done for p in seen] == pytest.approx([(i + 1) / 12 for i in range(12)])
    assert [p.epoch for p in seen] == [1] * 4 + [2] * 4 + [3] * 4
    assert {(p.phase, p.epochs, p.units_left, p.units, p.flops_left) for p in seen} == {
        ("test", 3, 5, 7, 0.25)
    }
    assert all(math.isfinite(p.loss) and 0.0 <= p.accuracy <= 1.0 for p in seen)
    assert all(p.seconds_left >= 0.0 for p in seen)
    assert seen[-1].seconds_left == 0.0
    assert seen[-1].loss == outcome.loss
    assert seen[-1].loss < 0.5 * seen[0].loss
    assert seen[-1].accuracy > seen[0].accuracy


def test_a_report_sums_up_all_steps_since_the_last(monkeypatch):
    reports = {}
    for every in (0.0, 1e9):
        monkeypatch.setattr(meter, "_REPORT_EVERY", every)
        module, reports[every] = linear(), []
        run(module, images(batches=4), Phase(module), on_progress=reports[every].append)
    (whole,) = reports[1e9]
    assert whole.loss == pytest.approx(sum(p.loss for p in reports[0.0]) / 4, rel=1e-6)
    assert whole.accuracy == pytest.approx(sum(p.accuracy for p in reports[0.0]) / 4, rel=1e-6)
    assert whole.done == 1.0


def test_nothing_trained_is_nothing_reported():
    module, seen = linear(), []
    outcome = run(module, Interrupting(images(), after=0), Phase(module), on_progress=seen.append)
    assert seen == []
    assert outcome.steps == 0
    assert math.isnan(outcome.loss)


# --- what breaks


def broken(batches, at):
    """Batches of which one has a value that is no number."""
    batches = [(x.clone(), y) for x, y in batches]
    batches[at][0][2, 0, 3, 3] = math.nan
    return batches


@pytest.mark.parametrize(("reports", "place"), [(0.0, "the model's input"), (1e9, "1.weight")])
def test_a_loss_that_is_no_number_ends_it_with_step_layer_and_hint(monkeypatch, reports, place):
    monkeypatch.setattr(meter, "_REPORT_EVERY", reports)
    module = linear()
    with pytest.raises(DivergenceError, match="the loss is nan at step 3") as error:
        run(module, broken(images(), 2), Phase(module))
    assert error.value.where == place
    assert "--lr" in error.value.hint
    assert modes(module) == {False}


def test_it_goes_back_to_the_last_checkpoint(every_step, tmp_path):
    expected = linear()
    run(expected, images()[:3], Phase(expected))
    module, checkpoint = linear(), Checkpoint(tmp_path / "run.pt", {}, every=0.0)
    with pytest.raises(DivergenceError, match="at step 4"):
        run(module, broken(images(), 3), Phase(module), checkpoint=checkpoint)
    assert same(module, expected)
    assert checkpoint.load()["step"] == 3


def test_a_loss_that_grows_without_bound_ends_it(every_step):
    module = graph()
    with pytest.raises(DivergenceError, match="training diverged"):
        run(module, images(), Phase(module, lr=1e4), epochs=20)
