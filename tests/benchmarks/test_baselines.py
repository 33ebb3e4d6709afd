"""Gates and importances in one harness: same budget, all listed, failures told, going on."""

import json

import baselines
import pytest
import torch
from baselines import GATES, METHODS, Task, row, run, share_of, table
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.errors import TargetError
from vibfx.training import gated_training
from vibfx.training.loop import Outcome

pytest.importorskip("sklearn")
SHARE = 0.5
RECORD = {"method": "m", "seed": 0, "flops": 0.5, "params": 0.4, "r_w": 0.3, "s": 8.0}
RECORD |= {"budget": 1.0, "before": 0.01, "cut": 0.2, "tuned": 0.02}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def begin(seed, norms=True):
    """Scanned digits, and a small network trained on them for a moment."""
    torch.manual_seed(seed)
    data = vibfx.load_data("digits", seed=seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32) if norms else nn.Identity(), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64) if norms else nn.Identity(), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, labels in data.train:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return data, model.eval()


def test_all_methods_land_on_the_same_budget():
    records = run("tiny", begin, [Task(SHARE, 2, 0)], METHODS, None)
    assert [r["method"] for r in records] == list(METHODS)
    assert not [r["failed"] for r in records if "failed" in r]
    for r in records:
        assert 0.97 * SHARE <= r["flops"] <= SHARE, r
        assert 0.0 < r["r_w"] < 1.0
        assert 0.0 < r["params"] < 1.0
        assert r["tuned"] < 0.6  # nine of ten are wrong by chance
    assert len({r["before"] for r in records}) == 1  # all start from one network
    rows = [line for line in table(records).splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in rows[1:]] == [f"| {m}" for m in METHODS]


@pytest.mark.parametrize("method", [GATES, "random"])
def test_seeds_differ_and_repeat(method):
    first, second = run("tiny", begin, [Task(SHARE, 2, seed) for seed in (0, 1)], (method,), None)
    (again,) = run("tiny", begin, [Task(SHARE, 2, 1)], (method,), None)
    assert {**again, "s": 0} == {**second, "s": 0}
    assert first["before"] != second["before"]
    assert first["cut"] != second["cut"]
    assert table([first, second]).splitlines()[-1].count("±") == 2


def test_a_method_that_fails_gets_a_row_with_the_reason():
    def without_norms(seed):
        return begin(seed, norms=False)

    methods = ("batch-norm scale", "random")
    records = run("tiny", without_norms, [Task(SHARE, 1, 0)], methods, None)
    first, second = table(records).splitlines()[-2:]
    assert "| - | - |" in first
    assert "seed 0: TargetError: its ranking ends at 100.0 % of the FLOPs" in first
    assert second.startswith("| random | ")
    assert second.endswith(" |  |")


def test_a_run_goes_on_where_it_was_interrupted(tmp_path):
    file, task = tmp_path / "deep" / "results.jsonl", Task(SHARE, 1, 0)
    methods = ("random", "group norm")
    records = run("tiny", begin, [task], methods, file)
    lines = file.read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == list(methods)

    def nothing_to_do(seed):
        raise AssertionError("everything is in the results")

    assert run("tiny", nothing_to_do, [task], methods, file) == records
    file.write_text(lines[0] + "\n" + lines[1][:20])  # cut off in the second one
    again = run("tiny", begin, [task], methods, file)
    assert again[0] == records[0]
    assert {**again[1], "s": 0} == {**records[1], "s": 0}  # as if it had not been interrupted
    with pytest.raises(AssertionError):
        run("tiny", nothing_to_do, [Task(SHARE, 2, 0)], methods, file)


@pytest.mark.parametrize(
    ("method", "module", "phase"),
    [("random", baselines.vibfx, "fine_tune"), (GATES, gated_training, "fit")],
)
def test_what_is_broken_off_is_no_result(monkeypatch, tmp_path, method, module, phase):
    broken_off = Outcome(interrupted=True, steps=1, loss=1.0, seconds=1.0)
    monkeypatch.setattr(module, phase, lambda *_, **__: broken_off)
    with pytest.raises(KeyboardInterrupt):
        run("tiny", begin, [Task(SHARE, 2, 0)], (method,), tmp_path / "results.jsonl")
    assert not (tmp_path / "results.jsonl").exists()


def test_a_result_above_the_budget_is_refused(monkeypatch):
    monkeypatch.setattr(baselines, "prune", lambda *_: None)
    (record,) = run("tiny", begin, [Task(SHARE, 1, 0)], ("random",), None)
    assert record["failed"] == "TargetError: it ends at 200.0 % of the budget"


def test_row_has_means_and_deviations_and_tells_failures():
    other = {**RECORD, "seed": 1, "flops": 0.48, "cut": 0.4, "tuned": 0.04, "s": 10.0}
    failed = {"method": "m", "seed": 2, "failed": "ValueError: a | b"}
    numbers = "49.00 | 40.00 | 30.00 | 30.00 ± 14.14 | 3.00 ± 1.41 | 9"
    assert row("m", [RECORD, other, failed]) == f"| m | {numbers} | seed 2: ValueError: a / b |"
    small = {**RECORD, "budget": 0.961}
    assert row("m", [small]).endswith("| 8 | seed 0: ends at 96.1 % of the budget |")
    assert row("m", [RECORD]) == "| m | 50.00 | 40.00 | 30.00 | 20.00 | 2.00 | 8 |  |"


@pytest.mark.parametrize("target", ["params=0.1", "flops=0.3,params=0.1", "flops=2", "half"])
def test_targets_of_other_kinds_are_refused(target):
    with pytest.raises(TargetError):
        share_of(target)
    assert share_of("flops=0.3") == 0.3
