"""Reads a result back, without its model's source and without running code from its files."""

from collections.abc import Sequence
from pathlib import Path

from torch import fx

from vibfx.model_files.manifest import check_manifest
from vibfx.model_files.saved_graph import GRAPH_FILES, load_graph


def load(folder: str | Path, *, trust: Sequence[str] = ()) -> fx.GraphModule:
    """Read the network that ``vibfx.compress`` or ``vibfx.save`` wrote to a folder.

    It needs neither the class that the network once was nor the package that class came from. What
    comes back computes, bit for bit, what was saved, and can be trained, compressed again and
    exported like it. Where the network returned a dataclass, it returns a dict of its fields.

    Args:
        folder: The folder.
        trust: Libraries whose operators the network may call, ``mylib``, or single operators,
            ``aten.x``, beyond those known to compute and do nothing else.

    Returns:
        The graph, on the CPU and in evaluation mode.

    Raises:
        ModelFileError: A file is missing, is not the one that was written (SHA-256), is of another
            format, or calls an operator that is not known to be harmless.
    """
    folder = Path(folder)
    check_manifest(folder, GRAPH_FILES)
    return load_graph(folder, trust=trust)
