"""Files of a run's state: whole or not there, of this run or refused."""

import os

import pytest
import torch

from vibfx.errors import CheckpointError
from vibfx.training.checkpoint import Checkpoint

RUN = {"target": "flops=0.5", "seed": "0"}


def state(number):
    return {"step": number, "tensors": {"w": torch.full((3,), float(number))}}


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "deep" / "gates.pt", RUN)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "gates.pt"


def steps(checkpoint):
    found = checkpoint.load()
    assert torch.equal(found["tensors"]["w"], state(found["step"])["tensors"]["w"])
    return found["step"]


def test_nothing_is_there_at_first(checkpoint):
    assert checkpoint.load() is None
    assert not checkpoint.exists()
    checkpoint.remove()


def test_the_newest_state_is_read_and_two_are_kept(checkpoint, file):
    for number in range(3):
        checkpoint.save(state(number))
    assert steps(checkpoint) == 2
    assert {p.name for p in file.parent.iterdir()} == {"gates.pt", "gates.pt.previous"}
    checkpoint.remove()
    assert not file.parent.exists()


def test_another_file_in_the_folder_stays(checkpoint, file):
    checkpoint.save(state(0))
    (file.parent / "notes.txt").write_text("mine")
    checkpoint.remove()
    assert [p.name for p in file.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("size", [0, 10, 90, 200, -1])
def test_of_a_torn_file_the_one_before_is_used(checkpoint, file, size, caplog):
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    file.write_bytes(file.read_bytes()[:size])
    assert steps(checkpoint) == 1
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("position", [3, 40, 150, 700])
def test_a_flipped_bit_is_noticed(checkpoint, file, position):
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    assert steps(checkpoint) == 1


def test_a_crash_between_the_renames_leaves_the_one_before(checkpoint, file):
    checkpoint.save(state(1))
    file.replace(file.with_name("gates.pt.previous"))
    assert steps(checkpoint) == 1
    assert checkpoint.exists()


def test_two_damaged_files_are_an_error_that_says_what_to_do(checkpoint, file):
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    for path in file.parent.iterdir():
        path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="no checkpoint here can be read") as error:
        checkpoint.load()
    assert "Delete it" in error.value.hint


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(checkpoint, file):
    checkpoint.save(state(1))
    other = Checkpoint(file, RUN | {"seed": "7"})
    with pytest.raises(CheckpointError, match="seed is 0 there and 7 here"):
        other.load()
    with pytest.raises(CheckpointError, match="lr is None there and 1 here"):
        Checkpoint(file, RUN | {"lr": "1"}).load()


def test_a_full_disk_leaves_the_last_state_and_a_warning(checkpoint, file, monkeypatch, caplog):
    checkpoint.save(state(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    checkpoint.save(state(2))
    assert "No space left on device" in caplog.text
    assert steps(checkpoint) == 1
    assert [p.name for p in file.parent.iterdir()] == ["gates.pt"]


def test_a_pickle_with_code_in_it_does_not_run(checkpoint, file, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "mark"),)

    checkpoint.save({"attack": Attack()})
    with pytest.raises(CheckpointError, match="no checkpoint here can be read"):
        checkpoint.load()
    assert not (tmp_path / "mark").exists()


def test_it_is_due_when_the_seconds_are_over(tmp_path):
    assert Checkpoint(tmp_path / "a", RUN, every=0.0).is_due()
    patient = Checkpoint(tmp_path / "b", RUN, every=1000.0)
    assert not patient.is_due()
    eager = Checkpoint(tmp_path / "c", RUN, every=1e-9)
    eager.save(state(0))
    assert eager.is_due()
