"""Lines of JSON about a run."""

import datetime
import json
import math

from vibfx.training.logs import JsonLines, to_all
from vibfx.training.meter import Progress

STATE = Progress(
    phase="compress",
    epoch=1,
    epochs=2,
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


def test_several_are_told():
    first, second = [], []
    tell = to_all(first.append, second.append)
    tell(1)
    assert first == second == [1]
    to_all()(1)
