"""The whole way, from a model to files, on real digits with a small network."""

import copy
import importlib.util
import json
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from networks import Residual, traced
from tasks import convnet, images_data, listing, mlp, one_thread, short_latencies  # noqa: F401
from torch import nn

import vibfx
from vibfx import delivery, output_folder
from vibfx.errors import (
    DataError,
    InputError,
    NothingRemovableError,
    OutputError,
    ParityError,
    TargetError,
    TraceError,
)
from vibfx.export import onnx_file
from vibfx.gates import gates_of
from vibfx.passes import PruneChannels, SelectInputs
from vibfx.training import course
from vibfx.training.engine import Hardware
from vibfx.training.evaluation import evaluate
from vibfx.training.objectives import Supervised

FILES = sorted(["log.jsonl", *output_folder.FILES])


@pytest.fixture(scope="module")
def digits():
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    return partial(vibfx.load_data, "digits", batch_size=64)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """One compression, and everything that it said."""
    model, out = convnet(classes=10), tmp_path_factory.mktemp("digits") / "new" / "out"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    progress, stages = [], []
    result = vibfx.compress(
        model,
        digits(),
        target="flops=0.4",
        out=out,
        epochs=12,
        lr=3e-3,
        name="small.pt",
        on_progress=progress.append,
        on_stage=stages.append,
    )
    return {
        "model": model,
        "before": before,
        "out": out,
        "result": result,
        "progress": progress,
        "stages": stages,
    }


# --- what comes out


def test_the_report_agrees_with_the_module(run):
    result = run["result"]
    report = result.report
    small = vibfx.measure(result.module)
    original = vibfx.measure(traced(run["model"], (1, 8, 8)))
    for side, measures in ((report.before, original), (report.after, small)):
        assert side.parameters == measures.parameters
        assert side.weights == measures.weights
        assert side.flops == measures.flops
        assert side.features == measures.features
    assert report.shares.flops == small.flops / original.flops <= 0.4
    assert report.shares.params == small.parameters / original.parameters
    assert report.shares.r_w == small.weights / original.weights
    assert report.shares.r_n == small.features / original.features
    assert [(layer.name, layer.width_after) for layer in report.layers] == [
        (layer.name, layer.shape[0]) for layer in small.layers
    ]
    assert report.units == 36
    assert report.units_left == sum(layer.width_after for layer in report.layers[:-1])
    assert (report.model, report.data, report.target) == ("small.pt", "digits", "flops=0.4")
    assert report.equivalence_error < 1e-9
    assert report.parity < 1e-4
    assert not report.interrupted
    assert report.seconds > 0.0


def test_the_accuracies_are_those_on_the_test_set(run, digits):
    report, test = run["result"].report, digits().test
    original, small = copy.deepcopy(run["model"]).eval(), run["result"].module
    before, after = report.before.score, report.after.score
    assert before.accuracy == evaluate(original, test).accuracy
    assert before.agreement == 1.0
    assert after == evaluate(small, test, loss=Supervised(), original=original)
    assert after.accuracy > 0.7 > 0.3 > before.accuracy


def test_the_model_is_not_changed(run):
    assert run["model"].training
    for name, value in run["model"].state_dict().items():
        assert torch.equal(value, run["before"][name])


def test_the_plan_fits_the_original_and_gives_the_same_shapes(run):
    plan = vibfx.PruningPlan.load(run["out"] / "plan.json")
    assert plan == run["result"].plan
    again = PruneChannels(plan)(traced(run["model"], (1, 8, 8))).graph_module
    shapes = {name: p.shape for name, p in run["result"].module.named_parameters()}
    assert {name: p.shape for name, p in again.named_parameters()} == shapes


def test_no_gate_is_left(run):
    assert gates_of(run["result"].module) == {}


def test_exactly_the_four_files_are_written(run):
    assert listing(run["out"]) == FILES
    report = json.loads((run["out"] / "report.json").read_text())
    assert report == json.loads(run["result"].report.to_json())
    assert report["after"]["onnx_bytes"] == (run["out"] / "model.onnx").stat().st_size


def test_the_files_compute_what_the_module_does(run):
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = run["result"].module(x)
    program = torch.export.load(run["out"] / "model.pt2").module()
    assert torch.equal(program(x), expected)
    session = onnxruntime.InferenceSession(run["out"] / "model.onnx")
    (actual,) = session.run(None, {"input": x.numpy()})
    assert np.abs(actual - expected.numpy()).max() < 1e-4 * float(expected.abs().max())


def test_stages_and_progress_are_told_in_order(run):
    assert run["stages"] == [
        "tracing the model",
        "measuring the original",
        "training the gates",
        "removing the shut channels",
        "fine-tuning",
        "exporting and checking",
    ]
    phases = [state.phase for state in run["progress"]]
    assert list(dict.fromkeys(phases)) == ["compress", "fine-tune"]
    assert phases == sorted(phases)
    assert all(0.0 < state.done <= 1.0 for state in run["progress"])


def test_without_a_folder_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = vibfx.compress(convnet(), images_data(), out=None, epochs=5, lr=5e-3)
    assert listing(tmp_path) == []
    assert result.report.model == "Sequential"
    assert result.report.shares.flops <= 0.5
    assert vibfx.measure(result.module).flops == result.report.after.flops


def test_the_seed_fixes_the_result():
    first, again = (
        vibfx.compress(convnet(), images_data(), epochs=2, lr=5e-3, seed=1) for _ in range(2)
    )
    assert first.plan == again.plan
    states = first.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_one_gamma_instead_of_a_target():
    result = vibfx.compress(convnet(), images_data(), target=None, gamma=0.003, epochs=30, lr=5e-3)
    assert result.report.target == "gamma=0.003"
    assert result.report.units_left < result.report.units


def test_a_harsh_target_takes_whole_blocks_out(tmp_path):
    torch.manual_seed(0)
    result = vibfx.compress(
        Residual(8, classes=4),
        images_data(),
        target="params=0.02",
        out=tmp_path,
        epochs=3,
        lr=5e-3,
    )
    report = result.report
    kept = {group.name: len(group.kept) for group in result.plan.groups}
    gone = [name.removesuffix(".conv1") for name, count in kept.items() if count == 0]
    assert gone
    assert kept["stem.0"] > 0
    widths = {layer.name: layer.width_after for layer in report.layers}
    for block in gone:
        assert widths[f"{block}.conv1"] == widths[f"{block}.conv2"] == 0
    assert report.shares.params <= 0.02
    assert report.equivalence_error < 1e-9
    assert vibfx.measure(result.module).parameters == report.after.parameters
    assert listing(tmp_path) == FILES
    x = torch.rand(3, 1, 8, 8)
    program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        assert torch.equal(program(x), result.module(x))


@pytest.mark.parametrize("norms", ["exact", "freeze"])
def test_norms_across_channels_are_rewritten_or_stay(norms):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU()),
        nn.Linear(12, 4),
    )
    result = vibfx.compress(
        model, images_data(), target="flops=0.9", norms=norms, epochs=3, lr=5e-3
    )
    groups = {group.name: group.units for group in result.plan.groups}
    assert groups == ({"1": 8, "3": 12} if norms == "exact" else {"3": 12})
    if norms == "freeze":
        assert result.report.layers[0].width_after == 8


def test_features_of_the_input_go_and_the_input_keeps_its_shape(tmp_path):
    result = vibfx.compress(
        mlp(), images_data(), target="flops=0.2", gate_inputs=True, out=tmp_path, epochs=8, lr=5e-3
    )
    report, original = result.report, traced(mlp(), (1, 8, 8))
    assert report.shares.flops <= 0.2
    assert report.before.flops == vibfx.measure(original).flops
    assert report.units == 64 + 12
    plan = vibfx.PruningPlan.load(tmp_path / "plan.json")
    kept = plan.parameters["inputs.input_1"][0]
    assert 0 < len(kept) < 40
    assert result.module.get_buffer("inputs.input_1").tolist() == list(kept)
    again = PruneChannels(plan)(SelectInputs()(original).graph_module).graph_module
    assert vibfx.measure(again).parameters == report.after.parameters
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    others = torch.tensor([i for i in range(64) if i not in kept])
    y = x.flatten(1).index_fill(1, others, 7.0).view_as(x)
    (first,), (second,) = (session.run(None, {"input": each.numpy()}) for each in (x, y))
    assert np.array_equal(first, second)


def test_an_earlier_result_is_replaced_and_other_files_stay(tmp_path):
    for name in ("model.onnx", "notes.txt"):
        (tmp_path / name).write_text("mine")
    vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=2)
    assert listing(tmp_path) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model.onnx").read_bytes() != b"mine"


# --- what fails leaves nothing


def refuse(*args, **kwargs):
    raise ZeroDivisionError


@pytest.mark.parametrize("step", ["fine_tune", "save_program"])
def test_a_run_that_fails_leaves_no_file_but_its_checkpoint(monkeypatch, tmp_path, step):
    monkeypatch.setattr(course if step == "fine_tune" else output_folder, step, refuse)
    with pytest.raises(ZeroDivisionError):
        vibfx.compress(convnet(), images_data(), out=tmp_path / "a" / "b", epochs=2)
    assert listing(tmp_path / "a" / "b") == ["checkpoint", "log.jsonl"]


def test_a_run_that_fails_leaves_what_was_there(monkeypatch, tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(output_folder, "save_program", refuse)
    with pytest.raises(ZeroDivisionError):
        vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=2)
    assert listing(tmp_path) == ["checkpoint", *FILES]
    assert {(tmp_path / name).read_text() for name in output_folder.FILES} == {"mine"}


def test_where_onnx_runtime_disagrees_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_file, "_gap", lambda wanted, got: 1.0)
    with pytest.raises(ParityError):
        vibfx.compress(convnet(), images_data(), out=tmp_path / "out", epochs=2)
    assert listing(tmp_path) == []


def test_a_precision_that_is_too_far_off_is_an_error_after_the_result_is_written(
    monkeypatch, tmp_path
):
    monkeypatch.setitem(delivery._TOLERANCE, "fp16", 0.0)
    with pytest.raises(
        ParityError, match=r"model\.fp16\.onnx was not written: its outputs"
    ) as caught:
        vibfx.compress(
            convnet(), images_data(), out=tmp_path, epochs=2, precisions=["int8", "fp16"]
        )
    assert "float32 was" in caught.value.hint
    assert listing(tmp_path) == sorted([*FILES, "model.int8.onnx"])


# --- what is refused


def refused(kind, model, data, tmp_path, **options):
    with pytest.raises(kind) as caught:
        vibfx.compress(model, data, out=tmp_path / "new" / "out", epochs=1, **options)
    assert listing(tmp_path) == []
    return str(caught.value)


def test_a_model_that_tells_too_few_classes_apart(tmp_path):
    message = refused(DataError, convnet(classes=3), images_data(), tmp_path)
    assert "the model tells 3 classes apart, the data has 4" in message


def test_a_model_that_returns_no_row_of_scores(tmp_path):
    message = refused(DataError, nn.Conv2d(1, 4, 3), images_data(), tmp_path)
    assert "the model returns (2, 4, 6, 6) for two examples" in message


def test_a_model_of_which_nothing_can_be_removed(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    message = refused(NothingRemovableError, model, images_data(), tmp_path)
    assert "nothing can be removed from this network" in message


def test_a_model_of_which_no_input_feature_can_be_removed(tmp_path):
    message = refused(NothingRemovableError, convnet(), images_data(), tmp_path, gate_inputs=True)
    assert "no feature of the model's input can be removed" in message
    assert "--gate-inputs" in message


def test_a_model_of_which_nothing_was_removed(tmp_path):
    options = {"target": None, "gamma": 1e-9}
    with pytest.raises(NothingRemovableError, match="training ended with every gate open"):
        vibfx.compress(convnet(), images_data(), out=tmp_path, epochs=1, **options)
    assert listing(tmp_path) == ["log.jsonl"]


def test_a_model_that_takes_another_shape(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    message = refused(TraceError, model, images_data(), tmp_path)
    assert "the model does not run on an input of shape 1x8x8" in message


def test_a_target_that_cannot_be_reached(tmp_path):
    message = refused(TargetError, convnet(), images_data(), tmp_path, target="flops=0.001")
    assert "the target flops=0.001 cannot be reached" in message


def test_a_target_that_cannot_be_read(tmp_path):
    refused(TargetError, convnet(), images_data(), tmp_path, target="half")


def test_a_device_that_is_not_there(tmp_path):
    refused(InputError, convnet(), images_data(), tmp_path, hardware=Hardware("toaster"))


def test_a_training_set_of_one_class(tmp_path):
    x = np.zeros((10, 1, 8, 8), np.float32)
    y = np.zeros(10, np.int64)
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(DataError, match="the training set has one class"):
        vibfx.compress(convnet(), vibfx.load_data(str(tmp_path / "one.npz")))


@pytest.mark.parametrize("out", ["file/out", "file", "x" * 300], ids=["below", "file", "long"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, out):
    (tmp_path / "file").write_text("mine")
    stages = []
    with pytest.raises(OutputError, match="the output folder cannot be written") as caught:
        vibfx.compress(convnet(), images_data(), out=tmp_path / out, on_stage=stages.append)
    assert caught.value.where == str(tmp_path / out)
    assert stages == []
    assert listing(tmp_path) == ["file"]
