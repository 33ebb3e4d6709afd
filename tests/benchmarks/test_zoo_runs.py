"""Going on after an interruption, and workers within limits."""

import sys

import pytest
from zoo.entries import Entry
from zoo.processes import Limits, run_worker
from zoo.records import append, load, remaining

ENTRIES = [Entry(name, lambda: None) for name in ("a/one", "a/two", "b/three")]


def test_results_come_back_and_the_last_one_counts(tmp_path):
    file = tmp_path / "deep" / "zoo.jsonl"
    assert load(file) == {}
    append(file, {"name": "a/one", "units": 1})
    append(file, {"name": "a/two", "units": 2})
    append(file, {"name": "a/one", "units": 3})
    assert {name: r["units"] for name, r in load(file).items()} == {"a/one": 3, "a/two": 2}


def test_a_line_that_was_cut_off_is_run_again(tmp_path):
    file = tmp_path / "zoo.jsonl"
    append(file, {"name": "a/one"})
    with file.open("a") as half:
        half.write('{"name": "a/tw')
    assert set(load(file)) == {"a/one"}
    append(file, {"name": "b/three"})
    assert set(load(file)) == {"a/one", "b/three"}


@pytest.mark.parametrize(
    ("only", "again", "left"),
    [
        ("", False, ["a/two", "b/three"]),
        ("^a/", False, ["a/two"]),
        ("", True, ["a/one", "a/two", "b/three"]),
        ("nothing", False, []),
    ],
)
def test_what_is_left_to_run(only, again, left):
    found = remaining(ENTRIES, {"a/one"}, only, again=again)
    assert [entry.name for entry in found] == left


def test_the_last_record_is_taken_among_other_words():
    record = run_worker("zoo_workers", ["talk"], Limits(seconds=30))
    assert (record["status"], record["error"]) == ("exact", 0.5)


def test_a_worker_that_takes_too_long_is_ended():
    record = run_worker("zoo_workers", ["sleep"], Limits(seconds=1.5))
    assert record["status"].startswith("time limit of 1.5 s (in ")
    assert record["seconds"] < 30


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_worker_that_takes_too_much_memory_is_ended():
    record = run_worker("zoo_workers", ["fill memory"], Limits(seconds=30, gigabytes=0.2))
    assert record["status"] == "memory limit of 0.2 GB (in start)"


def test_a_worker_that_dies_leaves_its_last_words():
    record = run_worker("zoo_workers", ["die"], Limits(seconds=30))
    assert record["status"] == "exit code 1: ouch (in start)"
