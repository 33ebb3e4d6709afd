"""Lines of JSON about a run, and TensorBoard's curves."""

import datetime
import json
import math
import sys
from dataclasses import replace

import pytest

from vibfx.errors import InputError
from vibfx.training.logs import JsonLines, TensorBoard, to_all
from vibfx.training.meter import Progress

STATE = Progress(
    phase="compress",
    epoch=1,
    epochs=2,
    step=50,
    done=0.25,
    loss=0.5,
    accuracy=0.75,
    units_left=3,
    units=4,
    flops_left=0.6,
    rate=100.0,
    waiting=0.1,
    seconds_left=math.inf,
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_stages_and_progress_are_lines_with_their_time(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.stage("tracing")
    assert not (tmp_path / "log.jsonl").exists()  # a run may still be refused
    log.progress(STATE)
    first, second = lines(tmp_path / "log.jsonl")
    assert first["stage"] == "tracing"
    times = [datetime.datetime.fromisoformat(line.pop("time")) for line in (first, second)]
    assert times[0] <= times[1] <= datetime.datetime.now(tz=datetime.UTC)
    assert second["loss"] == 0.5
    assert second["seconds_left"] is None  # JSON has no infinity
    assert set(second) == set(STATE.__dataclass_fields__)


def test_it_begins_anew_unless_resumed(tmp_path):
    path = tmp_path / "log.jsonl"
    for resume in (False, True, False):
        log = JsonLines(path, resume=resume)
        log.progress(STATE)
        log.stage("exporting")
        assert len(lines(path)) == 2 + 2 * resume


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path, caplog):
    log = JsonLines(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").mkdir()
    log.progress(STATE)
    assert "nothing was added" in caplog.text


def test_tensorboard_shows_the_curves_of_a_phase(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path / "events")
    assert not (tmp_path / "events").exists()  # a run may still be refused
    board.progress(STATE)
    board.progress(replace(STATE, step=60, flops_left=0.5))
    found = events.EventAccumulator(str(tmp_path / "events")).Reload()
    curve = found.Scalars("compress/flops_left")
    assert [(e.step, round(e.value, 6)) for e in curve] == [(50, 0.6), (60, 0.5)]
    assert len(found.Tags()["scalars"]) == 6


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="TensorBoard is not installed"):
        TensorBoard(tmp_path)


def test_several_are_told():
    first, second = [], []
    tell = to_all(first.append, second.append)
    tell(1)
    assert first == second == [1]
    to_all()(1)
