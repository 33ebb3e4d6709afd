"""Half precision: half the size, the same inputs and outputs, nearly the same numbers."""

import onnx
import pytest
from tasks import graph, images

from vibfx.errors import ExportError
from vibfx.export import export_onnx
from vibfx.export.fp16 import halve
from vibfx.export.onnx_module import OnnxModule
from vibfx.export.runtime import session
from vibfx.training.evaluation import evaluate


def test_weights_have_sixteen_bits_and_the_rest_is_as_before(tmp_path):
    path, out = export_onnx(graph(), tmp_path / "model.onnx").path, tmp_path / "half.onnx"
    halve(path, out)
    onnx.checker.check_model(str(out), full_check=True)
    kinds = {t.data_type for t in onnx.load(out).graph.initializer if len(t.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    for side in ("get_inputs", "get_outputs"):
        own, other = (getattr(session(file), side)()[0] for file in (path, out))
        assert (own.name, own.type, own.shape) == (other.name, other.type, other.shape)
    error = evaluate(OnnxModule(out), images(), original=OnnxModule(path)).error
    assert 1e-12 < error < 1e-4


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="cannot be converted to float16"):
        halve(tmp_path / "model.onnx", tmp_path / "half.onnx")
