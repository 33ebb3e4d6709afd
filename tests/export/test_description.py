"""What is in an ONNX file."""

import pytest
from tasks import graph

from vibfx.errors import ModelFileError
from vibfx.export import export_onnx
from vibfx.export.description import Value, describe


def test_a_file_that_vibfx_wrote(tmp_path):
    module = graph()
    facts = {"target": "flops=0.5", "classes": ["a", "b"]}
    exported = export_onnx(module, tmp_path / "model.onnx", metadata=facts)
    found = describe(exported.path)
    assert found.inputs == (Value("input", "float32", ("batch", 1, 8, 8)),)
    assert found.outputs == (Value("output", "float32", ("batch", 4)),)
    assert sum(found.operators.values()) == exported.nodes
    assert found.operators["Conv"] == 2
    assert found.bytes == exported.path.stat().st_size
    assert found.metadata == facts
    assert 3_500 < found.parameters < 5_000
    assert str(found.inputs[0]) == "input: float32 batch x 1 x 8 x 8"


@pytest.mark.parametrize(
    ("shape", "fits"), [((5, 1, 8, 8), True), ((5, 1, 8, 9), False), ((5, 1, 8), False)]
)
def test_what_an_input_takes(shape, fits):
    assert Value("x", "float32", ("batch", 1, 8, 8)).fits(shape) == fits


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x07"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"this is no ONNX file: ."):
        describe(tmp_path / "model.onnx")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        describe(tmp_path / "model.onnx")
