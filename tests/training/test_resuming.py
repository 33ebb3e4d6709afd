"""A run that is left at any moment and gone on with ends as if it had not been left."""

import os
import signal
import threading

import pytest
import torch
from networks import gated
from tasks import Interrupting, Left, graph, images, one_thread  # noqa: F401
from torch.utils.data import DataLoader, TensorDataset

from vibfx.data import TensorLoader
from vibfx.errors import CheckpointError
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.phases import fine_tune, train
from vibfx.training.resuming import random_state, set_epoch, set_random_state, stopped_by

QUICK = {"target": "flops=0.3", "epochs": 6, "lr": 5e-3}
CPU = torch.device("cpu")


def dataset():
    x, y = (torch.cat(parts) for parts in zip(*images(), strict=True))
    return x, y


def shuffled():
    return TensorLoader(*dataset(), batch_size=32, shuffle=True, seed=3)


def torch_loader():
    return DataLoader(TensorDataset(*dataset()), batch_size=32, shuffle=True)


LOADERS = {"list": images, "ours": shuffled, "torch": torch_loader}


def gates(checkpoints, loader):
    module = gated(graph())
    outcome = train(module, loader, **QUICK, checkpoints=checkpoints)
    return module.state_dict(), outcome


def tuned(checkpoints, loader):
    module = graph()
    outcome = fine_tune(module, loader, epochs=6, checkpoint=checkpoints.get("fine-tune"))
    return module.state_dict(), outcome


PHASES = {"gates": gates, "fine-tune": tuned}
LOOKED_AT = {gates: 1, tuned: 0}  # batches, before the first step


def checkpoints_in(folder, run=(), every=60.0):
    """One for each phase."""
    names = ("compress", "settle", "fine-tune")
    return {name: Checkpoint(folder / f"{name}.pt", dict(run), every=every) for name in names}


def states(checkpoints):
    """What there is, phase by phase."""
    return [checkpoint.load() for checkpoint in checkpoints.values() if checkpoint.exists()]


def steps(checkpoints):
    """How many steps were made in all."""
    return sum(state["step"] for state in states(checkpoints))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", params=PHASES)
def phase(request):
    return PHASES[request.param]


@pytest.fixture(scope="module", params=LOADERS)
def build(request):
    return LOADERS[request.param]


@pytest.fixture(scope="module")
def whole(phase, build):
    """What comes of it without being left."""
    return phase({}, build())


@pytest.mark.parametrize("after", [0, 4, 5, 13, 27])
def test_the_result_is_the_same_to_the_last_bit(phase, build, whole, after, tmp_path):
    checkpoints = checkpoints_in(tmp_path)
    with pytest.raises(SystemExit) as stop:
        phase(checkpoints, Left(build(), LOOKED_AT[phase] + after))
    assert stop.value.code == 128 + signal.SIGTERM
    assert steps(checkpoints) == after + 1
    found, outcome = phase(checkpoints_in(tmp_path), build())
    assert outcome.steps == whole[1].steps
    assert not outcome.interrupted
    assert same(found, whole[0])


def test_a_signal_at_the_very_last_step_changes_nothing(phase, build, whole, tmp_path):
    checkpoints = checkpoints_in(tmp_path)
    with pytest.raises(SystemExit):
        phase(checkpoints, Left(build(), LOOKED_AT[phase] + whole[1].steps - 1))
    found, outcome = phase(checkpoints, build())
    assert outcome.steps == whole[1].steps
    assert same(found, whole[0])


def test_a_run_that_is_done_is_not_trained_again(phase, build, whole, tmp_path):
    checkpoints = checkpoints_in(tmp_path, every=0.0)
    assert same(phase(checkpoints, build())[0], whole[0])
    assert all(state["complete"] for state in states(checkpoints))
    found, outcome = phase(checkpoints, Interrupting(images(), LOOKED_AT[phase], RuntimeError))
    assert same(found, whole[0])
    assert outcome.steps == whole[1].steps


@pytest.mark.parametrize("left", [Interrupting(images(), 8), Left(images(), 8, signal.SIGINT)])
def test_ctrl_c_ends_it_early_and_it_can_be_gone_on_with(left, tmp_path):
    expected, _ = gates({}, images())
    checkpoints = checkpoints_in(tmp_path)
    _, outcome = gates(checkpoints, left)
    assert outcome.interrupted
    assert outcome.steps in (7, 8)
    found, outcome = gates(checkpoints, images())
    assert not outcome.interrupted
    assert same(found, expected)


def test_an_error_in_the_data_is_no_reason_to_stop_quietly(tmp_path):
    checkpoints = checkpoints_in(tmp_path, every=0.0)
    with pytest.raises(RuntimeError):
        gates(checkpoints, Interrupting(images(), 8, RuntimeError))
    assert steps(checkpoints) == 7


def test_a_checkpoint_of_another_run_is_refused_before_anything_is_trained(tmp_path):
    checkpoints_in(tmp_path, {"seed": "1"})["compress"].save({})
    with pytest.raises(CheckpointError, match="seed is 1 there"):
        gates(checkpoints_in(tmp_path, {"seed": "2"}), Interrupting(images(), 1))


# --- the parts


def test_random_numbers_go_on_from_where_they_were():
    torch.manual_seed(5)
    state = random_state(CPU)
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)


def test_whoever_asks_is_told_the_epoch():
    class Sampler:
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    class Loader:
        sampler, batch_sampler = Sampler(), Sampler()

    set_epoch(Loader(), 4)
    assert (Loader.sampler.epoch, Loader.batch_sampler.epoch) == (4, 4)
    set_epoch(images(), 4)


def test_the_epoch_decides_on_the_order():
    loader = shuffled()
    set_epoch(loader, 1)
    second = [labels.tolist() for _, labels in loader]
    set_epoch(loader, 0)
    first = [labels.tolist() for _, labels in loader]
    assert first != second
    set_epoch(loader, 1)
    assert [labels.tolist() for _, labels in loader] == second


def test_a_second_ctrl_c_is_not_waited_for_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with stopped_by(signal.SIGINT) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with stopped_by(signal.SIGTERM):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]
