"""The files of a result: written, checked, measured, and what they say of themselves."""

import hashlib
from functools import partial

import onnx
import pytest
import torch
from networks import gated, shut_half
from tasks import convnet, graph, images_data, one_thread, short_latencies  # noqa: F401

import vibfx
from vibfx import delivery
from vibfx.data.batches import Normalization
from vibfx.delivery import Delivery
from vibfx.errors import ExportError
from vibfx.export.description import describe
from vibfx.graph import digest
from vibfx.passes import FoldGates, PruneChannels
from vibfx.training.evaluation import evaluate


@pytest.fixture(scope="module")
def networks():
    """The model, its graph, half of it, and the plan for that."""
    model = convnet().eval()
    whole = gated(graph())
    shut_half(whole)
    plan = vibfx.plan(whole)
    small = FoldGates()(PruneChannels(plan)(whole).graph_module).graph_module
    return model, graph(), whole, small, plan


def deliver(networks, folder, *precisions):
    model, original, whole, small, plan = networks
    data = images_data(preprocessing=Normalization((0.5,), (0.25,)))
    made = Delivery(model, original, data, partial(evaluate, original=original), folder, name="net")
    made.check_sizes(whole, small)
    return made.finish(small, plan, target="flops=0.5", precisions=precisions)


@pytest.fixture(scope="module")
def delivered(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("delivery")
    return folder, deliver(networks, folder, "int8", "fp16")


def test_every_precision_has_a_file_that_is_measured(delivered):
    folder, found = delivered
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.fp16.onnx", "model.int8.onnx", "model.onnx", "original.onnx"]
    assert [variant.precision for variant in found.variants] == ["int8", "fp16"]
    for variant in found.variants:
        assert not variant.problem
        assert variant.bytes == (folder / variant.file).stat().st_size
        assert variant.latency_ms > 0.0
        assert 0.0 < variant.error < 0.01
        assert variant.score.accuracy == pytest.approx(found.after.score.accuracy, abs=0.02)
    assert found.before.latency_ms > 0.0
    assert found.after.onnx_bytes == (folder / "model.onnx").stat().st_size
    assert found.parity < 1e-4


def test_the_files_say_where_they_come_from_and_what_to_feed_them(delivered, networks):
    folder, _ = delivered
    _, original, _, _, plan = networks
    expected = {
        "version": "0.1.0",
        "model": "net",
        "source": digest(original),
        "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "target": "flops=0.5",
        "mean": [0.5],
        "std": [0.25],
        "size": [[1, 8, 8]],
        "classes": ["0", "1", "2", "3"],
    }
    for file in ("model.onnx", "model.int8.onnx", "model.fp16.onnx"):
        assert describe(folder / file).metadata == expected, file
    del expected["plan"], expected["target"]
    assert describe(folder / "original.onnx").metadata == expected


def test_one_that_is_too_far_off_is_not_left_there(networks, tmp_path, monkeypatch):
    def wrong(path, out):
        model = onnx.load(path)
        (bias,) = (t for t in model.graph.initializer if t.dims == [4])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 9, bias.name))
        onnx.save(model, out)

    monkeypatch.setattr(delivery, "halve", wrong)
    (variant,) = deliver(networks, tmp_path, "fp16").variants
    assert "of the variance, allowed 0.1 %" in variant.problem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "original.onnx"]


def test_one_that_cannot_be_made_is_said_to_be(networks, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ExportError("it cannot")

    monkeypatch.setattr(delivery, "quantize", refuse)
    found = deliver(networks, tmp_path, "int8", "fp16")
    assert [variant.problem for variant in found.variants] == ["it cannot", ""]
    assert found.variants[1].latency_ms > 0.0


def test_one_that_onnx_runtime_cannot_open_costs_nothing_else(networks, tmp_path, monkeypatch):
    def unknown(path, out):
        model = onnx.load(path)
        node = next(node for node in model.graph.node if node.op_type == "Relu")
        node.op_type, node.domain = "Nonsense", "nobody"
        model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
        onnx.save(model, out)

    monkeypatch.setattr(delivery, "halve", unknown)
    found = deliver(networks, tmp_path, "fp16")
    assert "ONNX Runtime cannot open the file" in found.variants[0].problem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "original.onnx"]


def test_a_model_that_cannot_be_exported_is_seen_at_once(tmp_path):
    class Bessel(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x.flatten(1))

    model = Bessel().eval()
    module = vibfx.trace(model, torch.ones(2, 1, 8, 8))
    with pytest.raises(ExportError):
        Delivery(model, module, images_data(), evaluate, tmp_path, name="bessel")
