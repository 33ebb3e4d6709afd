"""What an ONNX file says of itself: where it comes from, and what to feed it with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PREFIX = "vibfx."


def write_metadata(path: Path, values: Mapping[str, Any]) -> None:
    """Add properties to an ONNX file; ``onnxruntime`` shows them as ``custom_metadata_map``.

    What PyTorch's exporter noted beside every node goes: lines of the model's source code and where
    they lie on this machine, which are nobody's business, and a twentieth of a small file.

    Args:
        path: The file, which is written anew.
        values: By name. Texts are written as they are, all else as JSON; None is left out.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    values_of = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (graph, *graph.node, *values_of):
        del part.metadata_props[:]
    known = {entry.key: entry.value for entry in model.metadata_props}
    own = {_PREFIX + name: value for name, value in values.items() if value is not None}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in own.items()}
    onnx.helper.set_model_props(model, known | texts)
    onnx.save(model, str(path))


def read_metadata(model: Any) -> dict[str, Any]:
    """The properties that ``write_metadata`` wrote, by name.

    Args:
        model: An ``onnx.ModelProto``.
    """
    return {
        entry.key.removeprefix(_PREFIX): _value(entry.value)
        for entry in model.metadata_props
        if entry.key.startswith(_PREFIX)
    }


def _value(text: str) -> Any:
    """What was written; a text that happens to be JSON too is a number or a list then."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
