"""Random cuts of random networks against their originals."""

import numpy as np
import pytest
import torch
import torchvision
from never_slower import NARROW, NETWORKS, one_plan
from torch import nn


def test_all_networks_are_known():
    assert set(NETWORKS) <= set(torchvision.models.list_models(torchvision.models))


@pytest.mark.parametrize(("narrow", "names"), [(0.0, NETWORKS), (1.0, NARROW)])
def test_a_plan_is_drawn_cut_and_measured(monkeypatch, capsys, narrow, names):
    def small(name, weights):
        assert name in NETWORKS
        assert weights is None
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    monkeypatch.setattr(torchvision.models, "get_model", small)
    faster = [one_plan(np.random.default_rng(0), narrow, 0.2) for _ in range(2)]
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:4] == rows[1][:4]  # one seed, one plan
    for row, times in zip(rows, faster, strict=True):
        assert row[0] in names
        kind, share = row[2].split("=")
        assert kind in ("flops", "params")
        assert 0.0 < float(row[3]) < 100.0
        if kind == "flops":
            assert float(row[3]) <= 100 * float(share) + 0.5  # of how the share is rounded here
        assert float(row[4]) / float(row[5]) == pytest.approx(times, rel=0.2)
        assert float(row[6]) == pytest.approx(times, abs=0.01)
