"""Writes to parts of a tensor, as tracing leaves them."""

import pytest
import torch
from couplings import Net, case, check_exact, frozen, rows, unit, units
from torch import nn


def written(write, made=6):
    """``y`` with something written to it, and ``net.b(x)`` of ``made`` features at hand."""

    def forward(net, x):
        y = net.a(x).clone()
        write(y, net.b(x))
        return net.h(torch.relu(y))

    layers = {"a": nn.Linear(3, 6), "b": nn.Linear(3, made), "h": nn.Linear(6, 2)}
    return case(Net(forward, **layers), 5, 3)


def _number(y, z):
    y[:, :2] = 0.5


def _row(y, z):
    y[:, 1] = 0.5


def _part(y, z):
    y[:, 1:3] = z[:, 2:4]


def _token(y, z):
    y[:, 1] = z[:, 2]


def _broadcast(y, z):
    y[:, 1:3] = z[:, 2:3]


@pytest.mark.parametrize("write", [_number, _row], ids=["slice", "position"])
def test_a_number_in_some_tokens(write):
    given = written(write)
    assert units(given.found) == rows(6, "a", "> h")
    check_exact(given)


@pytest.mark.parametrize("write", [_part, _token, _broadcast], ids=["slice", "position", "copied"])
def test_other_tokens_in_some_tokens_are_tied(write):
    given = written(write)
    assert units(given.found) == rows(6, "a", "b", "> h")
    check_exact(given)


def _features(y, z):
    y[..., 2:5] = z


def _one_feature(y, z):
    y[..., 2] = z[..., 0]


def _every_other_feature(y, z):
    y[..., ::2] = z


def test_features_written_over_others():
    given = written(_features, 3)
    assert units(given.found) == {
        one | (unit(f"b.weight:0[{i - 2}]", f"b.bias:0[{i - 2}]") if 2 <= i < 5 else unit())
        for i in range(6)
        for one in rows(6, "a", "> h")
        if f"h.weight:1[{i}]" in one
    }
    check_exact(given)


def test_one_feature_written_over_stays():
    given = written(_one_feature)
    assert sum(frozen(given.found)["a.weight:0"].values()) == 1
    check_exact(given)


def test_every_other_feature_written_over_stays():
    given = written(_every_other_feature, 3)
    reason = "written to at every other position"
    assert frozen(given.found)["a.weight:0"] == {reason: 6}
