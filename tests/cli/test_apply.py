import pytest
import torch
import torchvision
from applied_networks import assert_equal, cut_by, moved, random_plan
from torch import nn
from typer.testing import CliRunner

import vibfx
from vibfx.cli import app
from vibfx.errors import ModelFileError, OutputError, PlanError


def small_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    )


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    model = moved(small_net())
    graph = vibfx.trace(model, torch.randn(2, 1, 5, 5))
    random_plan(graph).save(tmp_path / "plan.json")
    torch.save(model, tmp_path / "net.pt")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["apply", *map(str, arguments)])


def test_writes_a_module_that_is_read_again(files):
    result = run(files / "plan.json", files / "net.pt")
    assert result.exit_code == 0, result.output
    assert "net-small.pt" in result.stdout
    small = vibfx.load_model(files / "net-small.pt")
    plan = vibfx.PruningPlan.load(files / "plan.json")
    graph = vibfx.trace(vibfx.load_model(files / "net.pt"), torch.randn(2, 1, 5, 5))
    assert type(small) is nn.Sequential
    assert small[0].out_channels == len(plan.groups[0].kept) < 6
    assert_equal(small, cut_by(plan, graph), (1, 5, 5))
    assert sorted(p.name for p in files.iterdir()) == ["net-small.pt", "net.pt", "plan.json"]


def test_out_input_and_another_checkpoint(files):
    torch.manual_seed(5)
    torch.save(moved(small_net()), files / "other.pt")
    result = run(
        *(files / "plan.json", files / "other.pt", "--out", files / "x.pt", "--input", "1x5x5")
    )
    assert result.exit_code == 0, result.output
    assert vibfx.load_model(files / "x.pt")[0].out_channels < 6


def refused(files, *arguments, error):
    before = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert result.exception.exit_code == 2
    assert {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()} == before
    return result.exception


def test_nothing_is_written_where_it_is_refused(files):
    plan, model = files / "plan.json", files / "net.pt"
    torch.save(torchvision.models.squeezenet1_1(), files / "wrong.pt")
    assert "no such parameter" in refused(files, plan, files / "wrong.pt", error=PlanError).what
    refused(files, plan, files / "none.pt", error=ModelFileError)
    refused(files, files / "none.json", model, error=PlanError)
    refused(files, plan, model, "--out", model, error=OutputError)
    refused(files, plan, model, "--out", files / "no" / "x.pt", error=OutputError)
    refused(files, plan, model, "--out", files, error=OutputError)


def test_what_cannot_be_written_leaves_nothing(files, monkeypatch):
    def full(module, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    error = refused(files, files / "plan.json", files / "net.pt", error=OutputError)
    assert "No space left" in error.what
