"""The zoo's comparison: what cannot be told is tried again; what differs is an error."""

import contextlib

import pytest
from networks import gated, shut_half
from tasks import graph
from zoo import check

import vibfx
from vibfx.errors import EquivalenceError


class Notes:
    """Takes down what a model's worker would print."""

    def __init__(self):
        self.record = {}

    def note(self, **values):
        self.record |= values

    def step(self, name, seconds=None):
        return contextlib.nullcontext()


@pytest.fixture
def module():
    module = gated(graph())
    shut_half(module)
    return module


def test_what_is_equal_is_exact(module):
    notes = Notes()
    small = check.compare(module, notes)
    assert notes.record["status"] == "exact"
    assert notes.record["error"] <= check.TOLERANCE
    assert vibfx.measure(small).flops < vibfx.measure(module).flops


def test_what_rounding_alone_changes_is_noted_as_that(module, monkeypatch):
    def refuse(*graphs, **options):
        raise EquivalenceError("the check can tell nothing: rounding alone changes the output")

    monkeypatch.setattr(vibfx, "verify", refuse)
    notes = Notes()
    check.compare(module, notes)
    assert notes.record["status"].startswith(check.ROUNDING)


def test_what_differs_is_an_error(module, monkeypatch):
    def refuse(*graphs, **options):
        raise EquivalenceError("the rewritten graph computes something else")

    monkeypatch.setattr(vibfx, "verify", refuse)
    with pytest.raises(EquivalenceError, match="something else"):
        check.compare(module, Notes())
