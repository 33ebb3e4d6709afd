"""Quantization: smaller, close to the float32 file, and what stays in float32 is named."""

import onnx
import pytest
import torch
from networks import traced
from tasks import graph, images
from torch import nn

from vibfx.errors import ExportError
from vibfx.export import export_onnx, int8
from vibfx.export.int8 import quantize
from vibfx.export.onnx_module import OnnxModule
from vibfx.training.evaluation import evaluate


def files(module, folder):
    return export_onnx(module, folder / "model.onnx").path, folder / "model.int8.onnx"


def test_its_outputs_are_near_and_weights_have_eight_bits_by_channel(tmp_path):
    path, out = files(graph(), tmp_path)
    assert not quantize(path, out, images(seed=1))
    error = evaluate(OnnxModule(out), images(seed=2), original=OnnxModule(path)).error
    assert 1e-7 < error < 0.01  # quantized, and well
    stored = {tensor.name: tensor for tensor in onnx.load(out).graph.initializer}
    kernels = [t for t in stored.values() if len(t.dims) == 4]
    assert len(kernels) == 2
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in kernels)
    scales = [t for name, t in stored.items() if name.endswith("_scale") and list(t.dims) == [12]]
    assert scales  # one a channel
    onnx.checker.check_model(str(out))


def test_what_stays_in_float_is_named(tmp_path):
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x):
            return torch.erf(self.linear(x)).cos()

    path, out = files(traced(Ends(), (6,)), tmp_path)
    assert quantize(path, out, [torch.randn(8, 6)]) == {"Erf": 1, "Cos": 1}


def test_so_many_examples_are_looked_at_and_no_more(tmp_path, monkeypatch):
    path, out = files(graph(), tmp_path)
    seen = []
    original = int8.feed
    monkeypatch.setattr(int8, "feed", lambda s, xs: seen.append(len(xs[0])) or original(s, xs))
    monkeypatch.setattr(int8, "_EXAMPLES", 50)
    quantize(path, out, images())
    assert seen == [32, 18]


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="cannot be quantized"):
        quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", images())
