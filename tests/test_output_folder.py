"""The folder for results: whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import traced
from reports import REPORT
from tasks import convnet

import vibfx
from vibfx.errors import CheckpointError, ModelFileError, OutputError
from vibfx.output_folder import FILES, checkpoints, publish, staging
from vibfx.report import Variant


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_work_is_done_inside_the_folder_and_leaves_nothing(tmp_path):
    out = tmp_path / "a" / "b"
    with staging(out) as folder:
        assert folder.parent == out
        (folder / "half.onnx").write_text("half")
    assert names(tmp_path) == []


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError), staging(tmp_path):
        raise ZeroDivisionError
    assert names(tmp_path) == ["mine.txt"]


def test_without_a_folder_it_is_a_temporary_one():
    with staging(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_what_a_killed_run_left_aside_is_cleared_away(tmp_path):
    (tmp_path / ".vibfx-abc").mkdir()
    (tmp_path / ".vibfx-abc" / "original.onnx").write_text("half")
    with staging(tmp_path):
        assert ".vibfx-abc" not in names(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot be written") as error, staging(tmp_path / "file"):
        pass
    assert "--out" in error.value.hint


def test_files_appear_together(tmp_path):
    small = traced(convnet(), (1, 8, 8))
    plan = vibfx.PruningPlan(parameters={}, shapes={}, groups=())
    with staging(tmp_path) as folder:
        vibfx.export_onnx(small, folder / "model.onnx")
        assert names(tmp_path) == [folder.name]
        publish(folder, tmp_path, small, plan, REPORT)
    assert names(tmp_path) == sorted(FILES)
    assert vibfx.PruningPlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "report.json").read_text())["model"] == REPORT.model


def test_other_precisions_come_along_and_those_of_an_earlier_result_go(tmp_path):
    small, plan = traced(convnet(), (1, 8, 8)), vibfx.PruningPlan({}, {}, ())
    (tmp_path / "model.fp16.onnx").write_text("of an earlier result")
    (tmp_path / "other.int8.onnx").write_text("mine")
    made, missing = Variant("int8", "model.int8.onnx"), Variant("fp16", "x.onnx", problem="too far")
    with staging(tmp_path) as folder:
        for name in ("model.onnx", "model.int8.onnx"):
            (folder / name).write_text(name)
        publish(folder, tmp_path, small, plan, replace(REPORT, variants=(made, missing)))
    assert names(tmp_path) == sorted([*FILES, "model.int8.onnx", "other.int8.onnx"])
    assert (tmp_path / "model.int8.onnx").read_text() == "model.int8.onnx"


def test_a_manifest_lists_what_was_written(tmp_path):
    small, plan = traced(convnet(), (1, 8, 8)), vibfx.PruningPlan({}, {}, ())
    with staging(tmp_path) as folder:
        (folder / "model.onnx").write_text("onnx")
        publish(folder, tmp_path, small, plan, REPORT, "vibfx compress net.pt")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert sorted([*manifest["files"], "manifest.json"]) == names(tmp_path)
    assert manifest["command"] == "vibfx compress net.pt"
    assert manifest["metrics"]["score"]["after"]["accuracy"] == REPORT.after.score.accuracy
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(vibfx.load(tmp_path)(x), small(x))


def test_what_is_cut_short_between_two_files_is_no_result(tmp_path, monkeypatch):
    first, second = (traced(convnet(), (1, 8, 8)) for _ in range(2))
    vibfx.save(first, tmp_path)
    replace_file = Path.replace

    def cut_short(path, target):
        if path.name == "model.safetensors":
            raise KeyboardInterrupt
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", cut_short)
    with pytest.raises(KeyboardInterrupt):
        vibfx.save(second, tmp_path)
    with pytest.raises(ModelFileError, match="manifest of the result cannot be read"):
        vibfx.load(tmp_path)


def test_a_graph_is_saved_beside_what_is_there(tmp_path):
    small = traced(convnet(), (1, 8, 8))
    (tmp_path / "mine.txt").write_text("mine")
    vibfx.save(small, tmp_path)
    vibfx.save(small, str(tmp_path))
    assert names(tmp_path) == ["graph.json", "manifest.json", "mine.txt", "model.safetensors"]


def test_checkpoints_are_those_of_one_run(tmp_path):
    found = checkpoints(tmp_path, {"seed": "1"}, resume=False)
    found["compress"].save({"step": 3})
    with pytest.raises(CheckpointError, match="unfinished run") as error:
        checkpoints(tmp_path, {"seed": "1"}, resume=False)
    assert "--resume" in error.value.hint
    assert checkpoints(tmp_path, {"seed": "1"}, resume=True)["compress"].load() == {"step": 3}
    with pytest.raises(CheckpointError, match="seed is 1 there and 2 here"):
        checkpoints(tmp_path, {"seed": "2"}, resume=True)["compress"].load()
    assert checkpoints(None, {}, resume=False) == {}
