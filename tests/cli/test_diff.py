import json

import pytest
from applied_networks import plan_keeping
from networks import Residual, traced
from typer.testing import CliRunner

from vibfx.cli import app
from vibfx.errors import PlanError


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    graph = traced(Residual(4), (1, 8, 8))
    plan_keeping(graph, stem_0=[0, 1]).save(folder / "a.json")
    plan_keeping(graph, stem_0=[1, 2, 3]).save(folder / "b.json")
    plan_keeping(traced(Residual(5), (1, 8, 8))).save(folder / "other.json")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


def test_a_table(plans):
    result = run(plans / "a.json", plans / "b.json")
    assert result.exit_code == 0
    assert "stem.0" in result.stdout


def test_json(plans):
    result = run(plans / "a.json", plans / "b.json", "--json")
    group = json.loads(result.stdout)["groups"][0]
    assert group == {"name": "stem.0", "units": 4, "first": 2, "second": 3, "both": 1}


def test_other_architectures_and_no_plan(plans):
    result = run(plans / "a.json", plans / "other.json")
    assert isinstance(result.exception, PlanError)
    assert result.exception.exit_code == 2
    assert isinstance(run(plans / "a.json", plans / "none.json").exception, PlanError)
