"""The phases of a compression, one after the other."""

from functools import partial

import pytest
import torch
from networks import traced
from tasks import CLASSES, Interrupting, convnet, images, one_thread  # noqa: F401

import vibfx
from vibfx.data import Data
from vibfx.passes import InsertGates
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.course import PHASES, Course
from vibfx.training.engine import Hardware
from vibfx.training.evaluation import evaluate
from vibfx.training.objectives import Supervised
from vibfx.training.phases import fine_tune


def task(train=None):
    loaders = [images(), images(batches=2), images(batches=2)]
    classes = tuple(map(str, range(CLASSES)))
    return Data("images", train or loaders[0], *loaders[1:], classes, preprocessing=None)


def course(data, checkpoints=(), lr=3e-3, stages=None):
    return Course(
        original=graph(),
        data=data,
        objective=Supervised(),
        score=partial(evaluate, loss=Supervised()),
        lr=lr,
        hardware=Hardware("cpu", precision="float32"),
        seed=0,
        on_progress=lambda state: None,
        on_stage=[].append if stages is None else stages.append,
        checkpoints={path.stem: Checkpoint(path, {}) for path in checkpoints},
    )


def graph():
    return traced(convnet(), (1, 8, 8))


def gated_graph(module=None):
    module = module or graph()
    return InsertGates(vibfx.analyze(module))(module).graph_module


def compress(running, gated, *, settle, target="flops=0.6", epochs=6):
    return running.compress(
        gated,
        target=target,
        settle=settle,
        epochs=epochs,
    )


def test_each_phase_is_scored_on_the_validation_split():
    data, small, gated, stages = task(), graph(), gated_graph(), []
    running = course(data, stages=stages)
    assert compress(running, gated, settle=True) == 0.0
    running.fine_tune(small, epochs=4)
    assert tuple(phase.name for phase in running.phases) == PHASES
    first, second, third = running.phases
    assert 0.0 < first.epochs <= 3.0
    assert first.epochs + second.epochs == pytest.approx(6.0)
    assert third.epochs == 4.0
    assert second.validation == evaluate(gated, data.validation, loss=Supervised())
    assert third.validation == evaluate(small, data.validation, loss=Supervised())
    assert third.kept
    assert first.seconds > 0.0
    assert stages == ["training the gates", "settling", "fine-tuning"]
    assert not running.interrupted


def test_what_is_left_of_the_epochs_is_for_the_fine_tune():
    data, running = task(), course(task())
    gated = gated_graph()
    spare = compress(running, gated, settle=False)
    (phase,) = running.phases
    assert spare == pytest.approx(6.0 - phase.epochs)
    found = evaluate(gated, data.validation, loss=Supervised())  # of the graph in its full shape
    assert phase.validation.loss == pytest.approx(found.loss, rel=1e-5)


@pytest.mark.parametrize("noise", [True, False])
def test_a_network_settles_where_it_overfits(noise):
    """Labels of the training set are drawn at random, or follow from the images."""
    train = images()
    if noise:
        generator = torch.Generator().manual_seed(7)
        train = [(torch.randn(x.shape, generator=generator), y) for x, y in train]
    small = graph()
    fine_tune(small, train, epochs=60, lr=1e-2)
    running, gated = course(task(train=train)), gated_graph(small)
    compress(running, gated, settle=None, target="flops=0.9", epochs=20)
    assert [phase.name for phase in running.phases] == ["compress", "settle"][: 1 + noise]


def test_weights_that_are_worse_on_the_validation_split_do_not_stay():
    """Validation is what the network was trained for; what it is tuned on is noise."""
    data, small = task(), graph()
    course(data, lr=1e-2).fine_tune(small, epochs=20)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    generator = torch.Generator().manual_seed(9)
    noise = [(torch.randn(x.shape, generator=generator), y.flip(0)) for x, y in images()]
    running = course(task(train=noise), lr=3e-2)
    running.fine_tune(small, epochs=4)
    (phase,) = running.phases
    assert not phase.kept
    assert phase.validation.accuracy < evaluate(small, data.train).accuracy - 0.2
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("interrupted", [True, False])
def test_checkpoints_stay_where_training_was_interrupted(tmp_path, interrupted):
    train = Interrupting(images(), after=7 if interrupted else 10**6)
    running = course(task(train=train), [tmp_path / "run" / "fine-tune.pt"])
    running.fine_tune(graph(), epochs=2)
    assert (tmp_path / "run" / "fine-tune.pt").exists()
    running.clean_up()
    assert running.interrupted == interrupted
    assert (tmp_path / "run" / "fine-tune.pt").exists() == interrupted
