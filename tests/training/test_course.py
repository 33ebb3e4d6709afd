"""The phases of a compression, one after the other."""

from functools import partial

import pytest
import torch
from networks import traced
from tasks import CLASSES, Interrupting, convnet, images, one_thread  # noqa: F401

import vibfx
from vibfx.budgets import parse_target
from vibfx.data import Data
from vibfx.passes import InsertGates
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.course import Course
from vibfx.training.engine import Hardware
from vibfx.training.evaluation import evaluate
from vibfx.training.objectives import Supervised


def task(train=None):
    loaders = [images(), images(batches=2), images(batches=2)]
    classes = tuple(map(str, range(CLASSES)))
    return Data("images", train or loaders[0], *loaders[1:], classes, preprocessing=None)


def course(data, checkpoints=(), lr=3e-3):
    return Course(
        original=graph(),
        data=data,
        objective=Supervised(),
        score=partial(evaluate, loss=Supervised()),
        lr=lr,
        hardware=Hardware("cpu", precision="float32"),
        seed=0,
        on_progress=lambda state: None,
        checkpoints={path.stem: Checkpoint(path, {}) for path in checkpoints},
    )


def graph():
    return traced(convnet(), (1, 8, 8))


def test_each_phase_is_scored_on_the_validation_split():
    data, small = task(), graph()
    gated = InsertGates(vibfx.analyze(small))(small).graph_module
    running = course(data)
    running.compress(
        gated, target=parse_target("flops=0.6"), gamma=None, max_drop=None, weights=None, epochs=6
    )
    running.fine_tune(small, epochs=4)
    first, second = running.phases
    assert (first.name, first.epochs, second.name, second.epochs) == ("compress", 6, "fine-tune", 4)
    assert first.validation == evaluate(gated, data.validation, loss=Supervised())
    assert second.validation == evaluate(small, data.validation, loss=Supervised())
    assert second.kept
    assert first.seconds > 0.0
    assert not running.interrupted


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
