"""A graph in two files: its text, and its tensors as safetensors. Neither holds code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from vibfx.errors import GraphError, ModelFileError
from vibfx.graph import check_graph, tensor_names
from vibfx.model_files.graph_text import FORMAT_VERSION, build_graph, describe_graph
from vibfx.model_files.refusals import OTHER_VERSION, damaged_graph, described
from vibfx.model_files.safetensors_files import read_safetensors
from vibfx.model_files.trust import Trust

GRAPH_FILES = TEXT, TENSORS = "graph.json", "model.safetensors"
"""What a saved graph consists of."""

# The text of the largest network of the zoo has 2 MB.
_LONGEST_TEXT = 2**28


def save_graph(module: fx.GraphModule, folder: Path) -> None:
    """Write a graph's two files.

    Args:
        module: A graph without gates, on any device.
        folder: Where to.

    Raises:
        OutputError: The graph holds what cannot be written.
    """
    from safetensors.torch import save_file

    description = describe_graph(module)
    (folder / TEXT).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    stored = {
        name: tensor.detach()
        for name, tensor in tensor_names(module)
        if "stored" not in description["tensors"][name]
    }
    save_file(_apart(stored), folder / TENSORS)
    # safetensors lets nobody but the owner read it.
    (folder / TENSORS).chmod((folder / TEXT).stat().st_mode & 0o777)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same on the CPU, none a view of another's memory."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def load_graph(folder: Path, *, trust: Sequence[str] = ()) -> fx.GraphModule:
    """Read a graph from its two files, on the CPU and in evaluation mode.

    Args:
        folder: Where they are.
        trust: Libraries whose operators the graph may call.

    Raises:
        ModelFileError: A file is missing or damaged, or calls what is not known to be harmless.
    """
    try:
        module = build_graph(_text(folder / TEXT), _tensors(folder / TENSORS), Trust.of(trust))
        check_graph(module)
    except ModelFileError as error:
        where = error.where or str(folder / TEXT)
        raise ModelFileError(error.what, where=where, hint=error.hint) from error
    except GraphError as error:
        raise ModelFileError(error.what, where=str(folder / TEXT), hint=OTHER_VERSION) from error
    except Exception as error:  # a changed text can make any step of the building fail
        raise _at(damaged_graph(described(error)), folder / TEXT) from error
    return module


def _text(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_TEXT:
            raise _at(damaged_graph("it is far longer than any graph"), path)
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
    except OSError as error:
        raise _unreadable(path, error) from error
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"The graph has format {version!r}; this version of vibfx reads {FORMAT_VERSION}.",
            where=str(path),
            hint=OTHER_VERSION,
        )
    return description


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        loaded = read_safetensors(path)
    except ModelFileError as error:
        raise _at(error, path) from error
    # In a file they begin anywhere. Some kernels round otherwise on memory that is not aligned.
    return {name: tensor.clone() for name, tensor in loaded.items()}


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"The file cannot be read: {error.strerror or error}.",
        where=str(path),
        hint="A saved graph consists of " + " and ".join(GRAPH_FILES) + ".",
    )


def _at(error: ModelFileError, path: Path) -> ModelFileError:
    return ModelFileError(error.what, where=str(path), hint=error.hint)
