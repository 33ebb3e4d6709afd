"""What a run tells of itself, and when it has left all bounds."""

import math
import time

import pytest
import torch

from vibfx.training import meter
from vibfx.training.meter import Diverged, Meter


class Phase:
    name, epochs, units = "test", 1, 7

    def left(self):
        return 5, 0.25


@pytest.fixture
def seen():
    return []


def add(measured, loss, right=0.5):
    measured.add(1, 2, torch.tensor(loss), right if right is None else torch.tensor(right))


def test_the_share_of_time_spent_waiting(seen):
    measured = Meter(Phase(), 4, seen.append)

    def slow():
        for _ in range(2):
            time.sleep(0.05)
            yield None

    for _ in measured.waiting_for(slow()):
        time.sleep(0.05)
        add(measured, 1.0)
    measured.report()
    assert 0.3 < seen[0].waiting < 0.7
    assert 0 < seen[0].rate < 4 / 0.1
    add(measured, 1.0)
    measured.report()
    assert seen[1].waiting == 0.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2500.0])
def test_the_first_bad_step_is_named(seen, loss, monkeypatch):
    monkeypatch.setattr(meter, "_REPORT_EVERY", 1e9)
    measured = Meter(Phase(), 4, seen.append)
    for value in (2.0, 1.0):
        add(measured, value)
    measured.report()
    for value in (1.0, loss, 1.0):
        add(measured, value)
    with pytest.raises(Diverged) as error:
        measured.report()
    assert error.value.step == 4
    assert error.value.loss == pytest.approx(loss, nan_ok=True)
    measured.report()  # once is enough


def test_what_is_large_from_the_start_is_no_divergence(seen):
    measured = Meter(Phase(), 4, seen.append)
    for value in (5000.0, 9000.0, 4000.0):
        add(measured, value)
    measured.report()
    assert seen[0].loss == 6000.0
    assert seen[0].accuracy == 0.5


def test_it_counts_on_from_where_a_run_was_left(seen):
    measured = Meter(Phase(), 4, seen.append)
    measured.go_on(2, 0.5, 100.0)
    assert measured.loss == 0.5
    add(measured, 1.0)
    measured.report()
    assert measured.step == 3
    assert measured.seconds >= 100.0
    assert seen[0].done == 0.75


def test_the_accuracy_is_that_of_all_examples_since_the_last_report(seen):
    measured = Meter(Phase(), 4, seen.append)
    measured.add(1, 30, torch.tensor(1.0), torch.tensor(0.5))
    measured.add(1, 10, torch.tensor(1.0), torch.tensor(1.0))
    measured.report()
    assert seen[0].accuracy == pytest.approx(25 / 40)
    assert seen[0].rate > 0


def test_without_classes_there_is_no_accuracy(seen):
    measured = Meter(Phase(), 4, seen.append)
    add(measured, 1.0, right=None)
    measured.report()
    assert math.isnan(seen[0].accuracy)
    assert seen[0].loss == 1.0
