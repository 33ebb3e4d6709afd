"""What a compression learns from, and what it aims at."""

import json

import pytest
import torch
from tasks import convnet, images, images_data, one_thread, short_latencies  # noqa: F401
from torch import nn

import vibfx
from vibfx.errors import (
    DataError,
    InputError,
    NothingRemovableError,
    TargetError,
    TargetMissedError,
)
from vibfx.output_folder import FILES
from vibfx.training import course
from vibfx.training.evaluation import Score

# --- what is learnt from


class Two(nn.Module):
    """Two outputs of a hidden layer, none of which are scores of classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 24), nn.Linear(24, 16)
        self.left, self.right = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x.flatten(1)))))
        return {"left": self.left(x), "right": self.right(x)}


def test_without_labels_the_originals_outputs_are_learnt():
    loaders = {name: [x for x, _ in images()] for name in ("train", "validation", "test")}
    data = images_data(**loaders, classes=(), labels="none")
    report = vibfx.compress(Two(), data, target="flops=0.5", epochs=80, lr=3e-3).report
    assert report.before.score == Score(error=0.0)
    assert report.after.score.error < 0.2  # 1 is to know nothing but the mean
    assert report.shares.flops <= 0.5
    with pytest.raises(DataError, match="a loss is asked for, but the data has no labels"):
        vibfx.compress(Two(), data, loss="mse")
    with pytest.raises(InputError, match=r"share of 0.5 of the data term"):
        vibfx.compress(Two(), data, distill=0.5)


def test_labels_may_be_values():
    task = [(x, x[:, :, :2, 0].flatten(1)) for x, _ in images()]
    loaders = dict.fromkeys(("train", "validation", "test"), task)
    data = images_data(**loaders, classes=(), labels="values")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    report = vibfx.compress(model, data, loss="mse", target="params=0.5", epochs=60, lr=5e-3).report
    assert report.after.score.loss < 0.3 * report.before.score.loss
    assert (report.after.score.accuracy, report.shares.params <= 0.5) == (None, True)
    with pytest.raises(DataError, match="numbers, which may mean several things") as error:
        vibfx.compress(model, data)
    assert "mse for values, bce for yes and no" in error.value.hint


def test_the_loss_may_be_a_function_of_outputs_and_labels():
    def loss(outputs, labels):
        return nn.functional.cross_entropy(outputs["left"], labels % 3)

    report = vibfx.compress(Two(), one_task(), loss=loss, epochs=20, lr=5e-3).report
    assert report.after.score.loss < 0.8 * report.before.score.loss


def test_without_data_inputs_are_made_from_the_model(tmp_path):
    model = convnet()
    stages = []
    result = vibfx.compress(
        model,
        input_shape=(1, 8, 8),
        target="flops=0.6",
        epochs=10,
        lr=3e-3,
        out=tmp_path,
        on_stage=stages.append,
    )
    made = next(stage for stage in stages if stage.startswith("no data"))
    assert made == "no data: making 1,024 inputs of 1x8x8 (as told) from the model"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["data"] == "1,024 inputs made from the model"
    assert "No data was given" in report["caution"]
    assert "--data" in report["caution"]
    assert result.report.after.score.accuracy is None
    assert 0.0 <= result.report.after.score.agreement <= 1.0
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "log.jsonl"}


def test_without_data_and_a_shape_that_is_known_it_asks():
    with pytest.raises(InputError, match="shape of the model's input is not known") as error:
        vibfx.compress(nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 3)))
    assert "--input" in error.value.hint


# --- as small as the accuracy allows


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = convnet()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for x, labels in 12 * images():
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def one_task():
    return images_data(**dict.fromkeys(("train", "validation", "test"), images()))


def test_a_largest_drop_in_place_of_a_target(trained):
    report = vibfx.compress(trained, one_task(), max_drop=2.0, epochs=40, lr=5e-3).report
    assert report.target == "max-drop=2"
    assert report.before.score.accuracy > 0.9
    assert report.phases[-1].validation.accuracy >= report.before.score.accuracy - 0.02
    assert report.shares.flops < 0.7


def test_a_drop_that_is_larger_in_the_end_is_an_error_and_the_result_is_there(
    trained, tmp_path, monkeypatch
):
    lost = course.Course.lost
    monkeypatch.setattr(course.Course, "lost", lambda *args: min(lost(*args), 0.1) + 0.75)
    with pytest.raises(NothingRemovableError):  # it never was good enough
        vibfx.compress(trained, one_task(), max_drop=0.5, epochs=4)
    monkeypatch.setattr(course.Course, "fine_tune", lambda *args, **options: worsen(monkeypatch))
    monkeypatch.setattr(course.Course, "lost", lambda *args: 0.0)
    with pytest.raises(TargetMissedError, match=r"lost 2.50 points .* more than the 0.5") as error:
        vibfx.compress(trained, one_task(), max_drop=0.5, epochs=20, lr=5e-3, out=tmp_path)
    assert error.value.exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "log.jsonl"}


def worsen(monkeypatch):
    monkeypatch.setattr(course.Course, "lost", lambda *args: 2.5)


def test_one_aim_at_a_time():
    with pytest.raises(TargetError, match="more than one of a target, a largest drop and a gamma"):
        vibfx.compress(convnet(), images_data(), target="flops=0.5", max_drop=1.0)
