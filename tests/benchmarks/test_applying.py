import copy

import applying
import torch
from networks import Residual

import vibfx
from vibfx.passes import PruneChannels

OK = {
    "name": "torchvision/a",
    "status": "ok",
    "parameters": 1000,
    "left": 0.25,
    "flops": 0.5,
    "error": 1e-9,
    "apply_s": 2.0,
}
REFUSED = {"name": "torchvision/b", "status": "refused", "parameters": 7, "reason": "it has heads"}


def test_the_comparison_can_fail():
    torch.manual_seed(0)
    model = Residual(4)
    graph = vibfx.trace(model, torch.randn(2, 1, 8, 8))
    plan = applying.random_plan(graph)
    assert all(group.kept for group in plan.groups)
    assert plan.removed_units > 0
    small = PruneChannels(plan)(graph).graph_module
    vibfx.apply(plan, model)
    assert applying.difference(copy.deepcopy(model), small, (1, 8, 8)) < 1e-9
    with torch.no_grad():
        model.head.weight[0, 0] += 0.01
    assert applying.difference(model, small, (1, 8, 8)) > applying.TOLERANCE


def test_rows_and_reasons():
    text = applying.report([OK, REFUSED, {"name": "torchvision/c", "status": "time limit"}], 5)
    assert "1 of 3 are the class that they were" in text
    assert "1 are refused, with the reasons below; 1 failed otherwise. 2 were not run yet." in text
    assert "| a | 1,000 | 25.0 | 50.0 | 1e-09 | 2 |" in text
    assert "| b | 7 | - | - | refused | - |" in text
    assert "- b: it has heads" in text
