"""What is in an ONNX file, without running it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vibfx.errors import ModelFileError
from vibfx.export.metadata import read_metadata


@dataclass(frozen=True)
class Value:
    """An input or an output.

    Attributes:
        name: Its name.
        type: Its elements' type, as numpy calls it.
        shape: Its sizes; free ones by their names.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be handed over."""
        alike = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(
            isinstance(own, str) or own in (0, given) for own, given in alike
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.type} {' x '.join(map(str, self.shape))}"


@dataclass(frozen=True)
class Description:
    """An ONNX file.

    Attributes:
        inputs: What it takes.
        outputs: What it returns.
        operators: How many there are of each.
        parameters: How many numbers it holds.
        bytes: The file's size.
        opset: The version of ONNX's operators.
        metadata: What it says of itself; empty where vibfx did not write it.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: dict[str, int]
    parameters: int
    bytes: int
    opset: int
    metadata: dict[str, Any]


def describe(path: Path) -> Description:
    """Read an ONNX file.

    Raises:
        ModelFileError: It cannot be read, or is no ONNX file.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
        size = path.stat().st_size
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except Exception as error:  # of protobuf or of the checker
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFileError(f"this is no ONNX file: {reason}", where=str(path)) from error
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    return Description(
        inputs=tuple(_described(value) for value in graph.input if value.name not in stored),
        outputs=tuple(_described(value) for value in graph.output),
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in graph.initializer),
        bytes=size,
        opset=max(entry.version for entry in model.opset_import),
        metadata=read_metadata(model),
    )


def _described(value: Any) -> Value:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return Value(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
