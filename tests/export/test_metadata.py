"""What an ONNX file says of itself."""

import onnx
import pytest
from onnx import TensorProto, helper

from vibfx.export.metadata import read_metadata, write_metadata


@pytest.fixture
def path(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_texts_numbers_and_lists_come_back(path):
    values = {"target": "flops=0.5", "mean": (0.5, 0.25), "classes": ["1", "ä"], "std": None}
    write_metadata(path, values)
    expected = {"target": "flops=0.5", "mean": [0.5, 0.25], "classes": ["1", "ä"]}
    assert read_metadata(onnx.load(path)) == expected
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(str(path))


def test_what_others_wrote_stays_and_what_was_written_is_replaced(path):
    model = onnx.load(path)
    helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, path)
    write_metadata(path, {"target": "a", "plan": "b"})
    write_metadata(path, {"target": "c"})
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert found == {"author": "somebody", "vibfx.target": "c", "vibfx.plan": "b"}


@pytest.mark.parametrize("text", ["[not json", "{", "12", "true", ""])
def test_a_text_stays_the_text_it_is(path, text):
    write_metadata(path, {"target": text})
    assert read_metadata(onnx.load(path)) == {"target": text}
