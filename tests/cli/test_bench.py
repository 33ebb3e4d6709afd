"""``vibfx bench`` and ``vibfx inspect FILE.onnx`` as a user runs them."""

import json

import numpy as np
import pytest
from tasks import CLASSES, graph, images

from vibfx.export import export_onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network twice, and the data it is for."""
    folder = tmp_path_factory.mktemp("bench")
    for name in ("a", "b"):
        export_onnx(graph(), folder / f"{name}.onnx", metadata={"target": "flops=0.5"})
    (folder / "text.onnx").write_text("no network")
    batches = images()
    x, y = (np.concatenate([batch[part].numpy() for batch in batches]) for part in (0, 1))
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return folder


@pytest.fixture
def run(monkeypatch, folder, run_main):
    """Runs a command in the folder, its lines 120 wide."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    return run_main


def test_two_files_in_a_table(run):
    code, out, _ = run("bench", "a.onnx", "b.onnx", "--seconds", "0.01", "--batch", "2")
    assert code == 0
    assert "times as fast" in out
    assert "0.0e+00" in out  # they are the same network


def test_json_and_nothing_else(run):
    code, out, _ = run(
        *("bench", "a.onnx", "b.onnx", "--seconds", "0.01", "--json", "--data", "data.npz"),
        *("--threads", "1", "--threads", "2"),
    )
    assert code == 0
    first, second = json.loads(out)
    assert (first["path"], second["path"]) == ("a.onnx", "b.onnx")
    assert [timing["threads"] for timing in first["timings"]] == [1, 2]
    assert second["score"]["agreement"] == 1.0
    assert first["score"]["accuracy"] == second["score"]["accuracy"] >= 1 / (10 * CLASSES)
    assert first["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.onnx"], "this is no ONNX file"),
        (["c.onnx"], "cannot be read"),
        (["a.onnx", "--provider", "Abacus"], "no provider 'Abacus'"),
        (["a.onnx", "--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(run, arguments, message):
    code, out, err = run("bench", *arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not out


def test_inspect_shows_what_a_file_is(run):
    code, out, _ = run("inspect", "a.onnx")
    assert code == 0
    assert "batch x 1 x 8 x 8" in out
    assert "flops=0.5" in out


def test_inspect_as_json(run):
    code, out, _ = run("inspect", "a.onnx", "--json")
    assert code == 0
    assert json.loads(out)["metadata"] == {"target": "flops=0.5"}


def test_inspect_refuses_what_is_no_onnx_file(run):
    code, _, err = run("inspect", "text.onnx")
    assert code == 2
    assert "this is no ONNX file" in err
