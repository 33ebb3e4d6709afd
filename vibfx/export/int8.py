"""Whole numbers of eight bits in place of floats: static quantization of an ONNX file."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vibfx.data import Batch, inputs_and_labels
from vibfx.errors import ExportError
from vibfx.export.runtime import Feed, feed, session
from vibfx.silence import silenced

# Ranges of activations that so many examples reach hardly grow with more.
_EXAMPLES = 512

# What is not computed with: it moves numbers, or is the quantization itself.
_MOVES = {
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Constant", "ConstantOfShape"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice"),
    *("Gather", "Shape", "Expand", "Pad"),
}

# ONNX Runtime runs these as part of the operator before them.
_ACTIVATIONS = {"Relu", "Clip"}
_INTO_QUANTIZED = {"QuantizeLinear", *_ACTIVATIONS}


def quantize(path: Path, out: Path, batches: Iterable[Batch]) -> Counter[str]:
    """Write an ONNX file that computes in eight bits where ONNX Runtime can.

    Operators stand between pairs of QuantizeLinear and DequantizeLinear, weights have a scale of
    their own for each channel and seven of the eight bits: with eight, processors without VNNI
    overflow (ONNX Runtime's guide to quantization). The ranges of activations are the smallest and
    the largest numbers that examples reach, 512 at most.

    Args:
        path: The file in float32.
        out: The file to write.
        batches: Real examples, as a loader gives them, not augmented.

    Returns:
        The operators that still compute in float32, and how many there are of each.

    Raises:
        ExportError: ONNX Runtime cannot quantize the file.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    try:
        with silenced():
            quantize_static(
                str(path),
                str(out),
                _reader(path, batches),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
    except Exception as error:  # of any kind: it says nothing of what it raises
        raise ExportError(f"the file cannot be quantized: {error}") from error
    return _in_float(onnx.load(str(out)).graph)


def _reader(path: Path, batches: Iterable[Batch]) -> Any:
    """The examples as ONNX Runtime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no types
        def __init__(self) -> None:
            self._feeds = _feeds(path, batches)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    return Reader()


def _feeds(path: Path, batches: Iterable[Batch]) -> Iterator[Feed]:
    opened, left = session(path), _EXAMPLES
    for batch in batches:
        x = inputs_and_labels(batch)[0][:left]
        yield feed(opened, [x])
        left -= len(x)
        if not left:
            return


def _in_float(graph: Any) -> Counter[str]:
    """Operators that no pair of quantization stands around."""
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)

    def is_quantized(node: Any) -> bool:
        reads = {made_by.get(name) for name in node.input}
        read_by = set().union(*(readers.get(name, {"the output"}) for name in node.output))
        return "DequantizeLinear" in reads and read_by <= _INTO_QUANTIZED

    return Counter(
        node.op_type
        for node in graph.node
        if node.op_type not in _MOVES | _ACTIVATIONS and not is_quantized(node)
    )
