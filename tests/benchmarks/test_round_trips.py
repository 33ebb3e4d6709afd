"""Networks that are saved and read back by another process, on a small one."""

import pytest
import round_trips
from networks import Residual, traced

import vibfx


@pytest.fixture
def small_one(monkeypatch):
    monkeypatch.setattr(round_trips, "traced", lambda name: traced(Residual(), (1, 12, 12)))


def test_a_network_comes_back_bit_for_bit(small_one, tmp_path):
    row, good = round_trips.round_trip("residual", tmp_path)
    assert good
    assert row.startswith("| residual |")
    assert "| yes |" in row
    assert vibfx.load(tmp_path / "again")


def test_one_that_does_not_is_told(small_one, tmp_path, monkeypatch):
    save = vibfx.save

    def save_another(graph, folder):
        next(graph.parameters()).data *= 1.01
        save(graph, folder)
        next(graph.parameters()).data /= 1.01

    monkeypatch.setattr(vibfx, "save", save_another)
    row, good = round_trips.round_trip("residual", tmp_path)
    assert not good
    assert "| no |" in row
