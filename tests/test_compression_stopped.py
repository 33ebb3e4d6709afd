"""Compressions that are stopped and gone on with."""

import pytest
import torch
from tasks import (  # noqa: F401
    Interrupting,
    Left,
    convnet,
    images,
    images_data,
    listing,
    mlp,
    one_thread,
    short_latencies,
)

import vibfx
from vibfx import output_folder
from vibfx.errors import (
    CheckpointError,
    NothingRemovableError,
)

FILES = sorted(["log.jsonl", *output_folder.FILES])


# --- Ctrl-C


def interrupted(model, stage, **options):
    """Compress; three batches into a stage there is Ctrl-C."""
    train = Interrupting(images(), after=10**6)

    def on_stage(name):
        if name == stage:
            train.left = 3

    return vibfx.compress(model, images_data(train=train), on_stage=on_stage, **options)


def test_ctrl_c_in_the_fine_tune_still_gives_a_result(tmp_path):
    result = interrupted(convnet(), "fine-tuning", out=tmp_path, epochs=5, lr=5e-3)
    assert [phase.name for phase in result.report.phases][-1] == "fine-tune"
    assert result.report.interrupted
    assert result.report.shares.flops <= 0.5
    assert listing(tmp_path) == ["checkpoint", *FILES]
    later = vibfx.compress(
        convnet(), images_data(), out=tmp_path, epochs=5, lr=5e-3, resume=True
    ).report
    assert not later.interrupted
    assert listing(tmp_path) == FILES


def test_ctrl_c_before_a_gate_is_shut_leaves_what_can_be_gone_on_with(tmp_path):
    with pytest.raises(NothingRemovableError, match="stopped before any gate was shut") as error:
        interrupted(convnet(), "training the gates", out=tmp_path / "out", epochs=4)
    assert "--resume" in error.value.hint
    assert listing(tmp_path / "out") == ["checkpoint", "log.jsonl"]


# --- going on


@pytest.mark.parametrize("settle", [True, False])
@pytest.mark.parametrize("after", [2, 9, 20, 24])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, after, settle):
    options = {"target": "flops=0.4", "epochs": 5, "lr": 5e-3, "settle": settle}
    expected = vibfx.compress(convnet(), images_data(), **options)
    with pytest.raises(SystemExit):
        vibfx.compress(
            convnet(), images_data(train=Left(images(), 1 + after)), out=tmp_path, **options
        )
    assert listing(tmp_path) == ["checkpoint", "log.jsonl"]
    found = vibfx.compress(convnet(), images_data(), out=tmp_path, resume=True, **options)
    assert found.plan == expected.plan
    for (name, mine), (other, its) in zip(
        found.module.state_dict().items(), expected.module.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(mine, its), name
    assert listing(tmp_path) == FILES


def test_a_run_with_its_inputs_gated_is_gone_on_with_as_that(tmp_path):
    options = {"target": "flops=0.2", "gate_inputs": True, "epochs": 6, "lr": 5e-3, "settle": True}
    expected = vibfx.compress(mlp(), images_data(), **options)
    with pytest.raises(SystemExit):
        vibfx.compress(mlp(), images_data(train=Left(images(), 22)), out=tmp_path, **options)
    with pytest.raises(CheckpointError, match="gate_inputs is True there and False here"):
        vibfx.compress(
            mlp(), images_data(), out=tmp_path, resume=True, **options | {"gate_inputs": False}
        )
    found = vibfx.compress(mlp(), images_data(), out=tmp_path, resume=True, **options)
    assert found.plan == expected.plan
    for name, value in found.module.state_dict().items():
        assert torch.equal(value, expected.module.state_dict()[name]), name


def test_an_unfinished_run_is_not_overwritten_nor_mixed_with_another(tmp_path):
    with pytest.raises(SystemExit):
        vibfx.compress(convnet(), images_data(train=Left(images(), 3)), out=tmp_path, epochs=4)
    with pytest.raises(CheckpointError, match="checkpoint of an unfinished run") as error:
        vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=4)
    assert "--resume" in error.value.hint
    with pytest.raises(CheckpointError, match="epochs is 4 there and 5 here"):
        vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=5, resume=True)
    with pytest.raises(CheckpointError, match="model is"):
        vibfx.compress(convnet(seed=1), images_data(), out=tmp_path, epochs=4, resume=True)
    assert listing(tmp_path) == ["checkpoint", "log.jsonl"]


def test_with_nothing_to_resume_it_starts_from_the_beginning(tmp_path):
    vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=2, resume=True)
    assert listing(tmp_path) == FILES
