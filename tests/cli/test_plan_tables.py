import io
from pathlib import Path

import torch
from applied_networks import plan_keeping
from networks import Residual, traced
from rich.console import Console

from vibfx.applying import applied
from vibfx.cli.plan_tables import show_applied, show_diff
from vibfx.plan_diff import diff


def printed(show, *given):
    console = Console(width=120, file=io.StringIO())
    show(*given, console)
    return console.file.getvalue()


def test_what_a_plan_did():
    model = Residual(4)
    graph = traced(model, (1, 8, 8))
    result = applied(plan_keeping(graph, stem_0=[0, 1]), model)
    text = printed(show_applied, result, Path("small.pt"))
    assert "Residual" in text
    assert f"{result.before.parameters:,}" in text
    assert f"{sum(p.numel() for p in model.parameters()):,}" in text
    assert "Proved equal to the cut graph" in text
    assert "Written: small.pt" in text


def test_where_two_plans_differ():
    torch.manual_seed(0)
    graph = traced(Residual(4), (1, 8, 8))
    plans = plan_keeping(graph, stem_0=[0, 1]), plan_keeping(graph, block1_conv1=[3])
    text = printed(show_diff, diff(*plans), ("a.json", "b.json"))
    row = next(line for line in text.splitlines() if "stem.0" in line)
    assert [int(word) for word in row.split() if word.isdigit()] == [4, 2, 4, 2]
    assert "Cut by the first only: " in text
    assert "Both keep the same" not in text
    same = printed(show_diff, diff(plans[0], plans[0]), ("a.json", "a.json"))
    assert "Both keep the same." in same
    assert "only" not in same
