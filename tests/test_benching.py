"""ONNX files side by side."""

from dataclasses import replace

import pytest
import torch
from networks import traced
from tasks import graph, images_data
from torch import nn

from vibfx import benching
from vibfx.benching import bench
from vibfx.errors import InputError, ModelFileError, ParityError
from vibfx.export import export_onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def first(folder):
    return export_onnx(graph(), folder / "first.onnx").path


@pytest.fixture(scope="module")
def nearby(folder):
    """The same network with one bias a little off."""
    module = graph()
    with torch.no_grad():
        dict(module.named_parameters())["10.bias"][0] += 0.01
    return export_onnx(module, folder / "nearby.onnx").path


@pytest.fixture
def no_memory(monkeypatch):
    """A process for each file takes its time."""
    monkeypatch.setattr(benching, "_peak", lambda *arguments: 1000)


def test_every_file_for_every_number_of_threads_and_batch(first, nearby, no_memory):
    rows = bench([first, nearby], threads=[1, 2], batches=[1, 4], seconds=0.01)
    assert [row.path for row in rows] == [first, nearby]
    for row in rows:
        cases = [(timing.threads, timing.batch) for timing in row.timings]
        assert cases == [(1, 1), (2, 1), (1, 4), (2, 4)]
        assert all(0.0 < timing.median_ms <= timing.p95_ms for timing in row.timings)
        assert all(timing.runs >= 5 for timing in row.timings)
        assert row.bytes == row.path.stat().st_size
        assert row.score is None
    assert rows[0].difference == 0.0
    assert 1e-4 < rows[1].difference < 0.1


def test_with_data_its_examples_are_what_is_run_on(first, nearby, no_memory, monkeypatch):
    given = []
    original = benching.run
    monkeypatch.setattr(benching, "run", lambda s, x: given.append(x) or original(s, x))
    data = images_data()
    rows = bench([first, nearby], batches=[40, 200], data=data, seconds=0.0)
    x = torch.cat([batch[0] for batch in data.test])
    assert torch.equal(torch.from_numpy(given[0]["input"]), x[:40])
    assert torch.equal(torch.from_numpy(given[-1]["input"][160:]), x[:40])  # from the beginning
    assert rows[0].score.agreement == 1.0
    assert 0.0 <= rows[1].score.accuracy <= 1.0


def test_memory_is_measured_once_a_file(first):
    (row,) = bench([first], seconds=0.0)
    assert 1e5 < row.peak_bytes < 1e9


def test_files_that_take_other_inputs_are_refused(first, folder, no_memory):
    other = export_onnx(traced(nn.Linear(3, 2), (3,)), folder / "other.onnx").path
    with pytest.raises(InputError, match="do not take the same inputs: input: float32 batch x 3"):
        bench([first, other])


def test_files_that_return_others_are_refused(first, folder, no_memory):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    other = export_onnx(traced(model, (1, 8, 8)), folder / "three.onnx").path
    with pytest.raises(InputError, match="do not return the same outputs"):
        bench([first, other], seconds=0.0)


def test_a_shape_that_is_open_has_to_be_said(folder, no_memory):
    module = traced(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (3, 9, 9))
    path = export_onnx(module, folder / "open.onnx", any_size=True).path
    with pytest.raises(InputError, match="does not say how large") as caught:
        bench([path])
    assert "--input" in caught.value.hint
    (row,) = bench([path], input_shape=(3, 12, 7), seconds=0.0)
    assert row.timings[0].runs >= 5


def test_a_fixed_batch_is_kept_to(folder, no_memory):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3).sum(1)

    path = export_onnx(traced(Fixed(), (3,)), folder / "fixed.onnx").path
    with pytest.raises(InputError, match="batches of 2 only"):
        bench([path])
    assert bench([path], batches=[2], seconds=0.0)[0].timings[0].batch == 2


def test_data_of_another_shape_is_refused(first, no_memory):
    wrong = [(torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(InputError, match=r"the data is float32 1 x 1 x 9 x 9, the files take"):
        bench([first], data=replace(images_data(), test=wrong))


def test_an_unknown_provider_is_refused_with_those_there_are(first):
    with pytest.raises(InputError, match="no provider 'GPU'") as caught:
        bench([first], provider="GPU")
    assert "CPUExecutionProvider" in caught.value.hint


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="no ONNX file"):
        bench([tmp_path / "a.onnx"])


def test_what_onnx_runtime_cannot_run_is_refused(first, no_memory, monkeypatch):
    class Broken:
        def run(self, names, given):
            raise RuntimeError("bad\nnews")

    monkeypatch.setattr(benching, "session", lambda path, **options: Broken())
    with pytest.raises(ParityError, match="cannot run the file on 1x1x8x8: bad"):
        bench([first])
