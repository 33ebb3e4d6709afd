"""What is kept on disk between runs."""

import json
from pathlib import Path

from vibfx.latency import cache as module
from vibfx.latency.cache import Cache


def test_what_was_put_is_there_the_next_time(tmp_path):
    Cache(tmp_path / "new").put("a", [1.5, {"b": None}])
    again = Cache(tmp_path / "new")
    assert again.get("a") == [1.5, {"b": None}]
    assert again.get("b") is None


def test_two_processes_keep_what_both_have_measured(tmp_path):
    one, other = Cache(tmp_path), Cache(tmp_path)
    one.put("a", 1)
    other.put("b", 2)
    assert (Cache(tmp_path).get("a"), Cache(tmp_path).get("b")) == (1, 2)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_counts_as_empty_and_is_replaced(tmp_path):
    Cache(tmp_path).put("a", 1)
    (path,) = tmp_path.iterdir()
    for damage in ('{"a": 1', "[1]", "\0"):
        path.write_text(damage)
        found = Cache(tmp_path)
        assert found.get("a") is None
        found.put("a", 2)
        assert json.loads(path.read_text()) == {"a": 2}


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file")
    cache.put("a", 1)
    assert cache.get("a") == 1
    assert "nothing was kept" in caplog.text


def test_it_lies_in_the_users_folder_for_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Cache().put("a", 1)
    assert [path.parent for path in tmp_path.rglob("latency-*.json")] == [tmp_path / "vibfx"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Cache().put("a", 1)
    assert list((tmp_path / "home" / ".cache" / "vibfx").iterdir())


def test_other_processors_and_runtimes_have_files_of_their_own(tmp_path, monkeypatch):
    Cache(tmp_path).put("a", 1)
    monkeypatch.setattr(module, "_processor", lambda: "another")
    assert Cache(tmp_path).get("a") is None
    monkeypatch.setattr(module.importlib.metadata, "version", lambda _: "0.0")
    Cache(tmp_path).put("a", 2)
    assert len(list(Path(tmp_path).iterdir())) == 2
