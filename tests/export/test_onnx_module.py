"""An ONNX file that is called as a module is."""

import torch
from networks import traced
from tasks import graph, images
from torch import nn

from vibfx.export import export_onnx
from vibfx.export.onnx_module import OnnxModule
from vibfx.training.evaluation import evaluate


class Two(nn.Module):
    def forward(self, x):
        return x + 1, x.sum(1)


def test_it_is_measured_as_the_graph_is(tmp_path):
    module = graph()
    found = OnnxModule(export_onnx(module, tmp_path / "model.onnx").path, threads=1)
    batches = images()
    assert torch.allclose(found(batches[0][0]), module(batches[0][0]), atol=1e-5)
    score = evaluate(found, batches, original=module)
    assert score.accuracy == evaluate(module, batches).accuracy
    assert score.agreement == 1.0
    assert score.error < 1e-9


def test_several_outputs_are_a_tuple(tmp_path):
    path = export_onnx(traced(Two(), (3,)), tmp_path / "two.onnx").path
    x = torch.arange(6.0).reshape(2, 3)
    first, second = OnnxModule(path)(x)
    assert torch.equal(first, x + 1)
    assert torch.equal(second, x.sum(1))
