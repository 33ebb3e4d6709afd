"""ONNX files: written aside, checked in ONNX Runtime, and named only when they passed."""

import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import gated, randomize, shut_half
from tasks import graph
from torch import nn

import vibfx
from vibfx.errors import ExportError, ParityError, TraceError
from vibfx.export import export_onnx, onnx_file
from vibfx.export.onnx_file import PARITY_TOLERANCE
from vibfx.gates import gates_of
from vibfx.passes import FoldGates, PruneChannels


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x, y):
        shared = torch.relu(self.a(x) + self.b(y))
        return shared, shared.sum(1)


class MaskedAttention(nn.Module):
    """Attention with a mask, which the exporter writes out."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.bias = nn.Embedding(5, 3)

    def forward(self, x):
        q, k, v = (f(x).view(-1, 5, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        places = torch.arange(5)
        mask = self.bias((places[:, None] - places).abs()).permute(2, 0, 1)[None]
        mask = mask.expand(x.shape[0], -1, -1, -1).contiguous()
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.out(y.transpose(1, 2).reshape(-1, 5, 12))


@pytest.fixture(scope="module")
def cut():
    """A gated graph with half of its units cut, and the gates of the others still in it."""
    module = gated(graph())
    shut_half(module)
    randomize(module, (1, 8, 8))
    return PruneChannels(vibfx.plan(module))(module).graph_module


@pytest.fixture(scope="module")
def exported(cut, tmp_path_factory):
    return export_onnx(cut, tmp_path_factory.mktemp("onnx") / "model.onnx")


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what is written


def test_attention_that_the_exporter_writes_out(tmp_path):
    torch.manual_seed(0)
    module = vibfx.trace(MaskedAttention().eval(), torch.randn(2, 5, 12))
    assert export_onnx(module, tmp_path / "attention.onnx").difference < 1e-5


def test_the_result_describes_the_file(exported):
    assert exported.path.name == "model.onnx"
    assert listing(exported.path.parent) == ["model.onnx"]
    assert exported.bytes == exported.path.stat().st_size
    assert exported.nodes == len(onnx.load(exported.path).graph.node)
    assert 0.0 < exported.difference <= PARITY_TOLERANCE


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_it_computes_what_the_graph_does_at_any_batch_size(cut, exported, batch):
    x = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = cut(x).numpy()
    (actual,) = session(exported.path).run(None, {"input": x.numpy()})
    assert actual.shape == (batch, 4)
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3


def test_its_input_and_output_have_names_and_a_free_batch(exported):
    (given,), (result,) = session(exported.path).get_inputs(), session(exported.path).get_outputs()
    assert (given.name, given.shape) == ("input", ["batch", 1, 8, 8])
    assert (result.name, result.shape) == ("output", ["batch", 4])


def test_gates_are_folded_in_the_file_and_left_in_the_graph(cut, exported, tmp_path):
    assert len(gates_of(cut)) == 3
    folded = export_onnx(FoldGates()(cut).graph_module, tmp_path / "folded.onnx")
    assert folded.nodes == exported.nodes
    assert not {n.op_type for n in onnx.load(exported.path).graph.node} & {"Mul", "Where"}


def test_several_inputs_and_outputs_are_numbered(tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, size, generator=generator) for size in (3, 5)]
    module = vibfx.trace(TwoInputs(), inputs)
    found = session(export_onnx(module, tmp_path / "two.onnx", inputs).path)
    assert [entry.name for entry in found.get_inputs()] == ["input_0", "input_1"]
    assert [entry.name for entry in found.get_outputs()] == ["output_0", "output_1"]
    expected = module(*inputs)
    actual = found.run(None, {f"input_{i}": x.numpy() for i, x in enumerate(inputs)})
    for wanted, got in zip(expected, actual, strict=True):
        assert np.abs(wanted.detach().numpy() - got).max() < 1e-5


def test_what_it_says_of_itself_is_in_the_file(cut, tmp_path):
    facts = {"target": "flops=0.5", "classes": ["cat", "dog"], "mean": None}
    path = export_onnx(cut, tmp_path / "model.onnx", metadata=facts).path
    found = session(path).get_modelmeta().custom_metadata_map
    assert found == {"vibfx.target": "flops=0.5", "vibfx.classes": '["cat", "dog"]'}


def test_it_holds_no_source_code_and_no_path_of_this_machine(exported):
    content = exported.path.read_bytes()
    assert b"stack_trace" not in content
    assert b"site-packages" not in content
    assert str(Path(__file__).parent).encode() not in content
    stored = sum(4 * int(np.prod(t.dims)) for t in onnx.load(exported.path).graph.initializer)
    assert exported.bytes - stored < 3_000


def test_every_number_of_threads_is_compared(cut, exported, tmp_path, monkeypatch):
    asked = []
    answer_with(monkeypatch, exported, lambda output: output)
    monkeypatch.setattr(
        onnx_file, "session", lambda path, threads: asked.append(threads) or session(path)
    )
    export_onnx(cut, tmp_path / "model.onnx")
    assert asked == [1, 0]


@pytest.mark.parametrize("size", [(8, 8), (11, 24)])
def test_images_of_any_size(tmp_path, size):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    module = vibfx.trace(nn.Sequential(*layers).eval(), torch.randn(2, 1, 8, 8))
    found = export_onnx(module, tmp_path / "model.onnx", any_size=True)
    opened = session(found.path)
    assert found.any_size
    assert opened.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    x = torch.randn(3, 1, *size)
    (actual,) = opened.run(None, {"input": x.numpy()})
    assert np.abs(actual - module(x).detach().numpy()).max() < 1e-5


def test_any_size_is_refused_where_the_file_cannot_be_run_with_it(tmp_path):
    layers = nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3)
    module = vibfx.trace(nn.Sequential(*layers).eval(), torch.randn(2, 1, 8, 8))
    with pytest.raises((ExportError, ParityError)):
        export_onnx(module, tmp_path / "model.onnx", any_size=True)
    assert listing(tmp_path) == []


def test_an_earlier_file_is_replaced(cut, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")
    found = export_onnx(cut, file, torch.zeros(1, 1, 8, 8))
    assert found.bytes > 1000
    onnx.checker.check_model(str(file))
    assert listing(tmp_path) == ["model.onnx"]


def test_it_says_nothing_and_leaves_logging_and_warnings_as_they_were(cut, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(cut, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


# --- what is refused


class Wrong:
    """A session whose outputs are changed on the way."""

    def __init__(self, path, change):
        self._session, self._change = session(path), change

    def get_inputs(self):
        return self._session.get_inputs()

    def run(self, names, feed):
        return [self._change(output) for output in self._session.run(names, feed)]


def answer_with(monkeypatch, exported, change):
    """Take a finished file for what the exporter writes, and change what ONNX Runtime answers."""
    monkeypatch.setattr(
        onnx_file, "_write", lambda module, inputs, path, images: shutil.copy(exported.path, path)
    )
    monkeypatch.setattr(onnx_file, "session", lambda path, threads: Wrong(path, change))


def in_the_last_batch_only(output):
    """One element is off, where the batch is the largest that is tried."""
    changed = output.copy()
    if len(output) == max(onnx_file._BATCH_SIZES):
        changed.flat[-1] += 2e-4 * np.abs(output).max()
    return changed


CHANGES = {
    "scaled": (
        lambda output: output * 1.001,
        r"by 1\.00e-03, allowed 1e-04",
    ),
    "one element": (in_the_last_batch_only, r"by 2\.0\de-04, allowed 1e-04"),
    "nan": (lambda output: output * np.nan, "by inf"),
    "shape": (lambda output: output[:, :-1], "gives shape"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("existing", [None, b"old"])
def test_a_file_that_computes_something_else_gets_no_name(
    cut, exported, tmp_path, monkeypatch, name, existing
):
    change, message = CHANGES[name]
    answer_with(monkeypatch, exported, change)
    file = tmp_path / "model.onnx"
    if existing is not None:
        file.write_bytes(existing)
    with pytest.raises(ParityError, match=message):
        export_onnx(cut, file)
    assert listing(tmp_path) == ([] if existing is None else ["model.onnx"])
    assert existing is None or file.read_bytes() == existing


def test_a_difference_below_the_tolerance_is_measured(cut, exported, tmp_path, monkeypatch):
    answer_with(monkeypatch, exported, lambda output: output * 1.00005)
    found = export_onnx(cut, tmp_path / "model.onnx")
    assert found.difference == pytest.approx(5e-5, rel=0.05)


def test_an_op_that_onnx_does_not_have_is_named(tmp_path):
    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    module = vibfx.trace(Bessel(), torch.ones(2, 3))
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*bessel_j0"):
        export_onnx(module, tmp_path / "model.onnx")
    assert listing(tmp_path) == []
    assert logging.root.manager.disable == logging.NOTSET


def test_example_inputs_that_are_no_tensors_are_refused(cut, tmp_path):
    with pytest.raises(TraceError, match="an example input is str"):
        export_onnx(cut, tmp_path / "model.onnx", ["x"])
    assert listing(tmp_path) == []
