"""Images of other sizes than the traced one: whether a network takes them, and a file that does.

A graph holds sizes as it was traced with them. That it holds none that matter is not read off it
but tried: the model is traced again with larger images, and the two graphs have to agree.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from vibfx.equivalence import verify
from vibfx.errors import ExportError, ParityError
from vibfx.export import Export, export_onnx
from vibfx.graph import shape_of
from vibfx.inputs import image_input, other_size
from vibfx.tracing import trace

_log = logging.getLogger(__name__)


def takes_any_size(model: nn.Module, graph: fx.GraphModule) -> bool:
    """Whether a graph is the model for images of any height and width that the model takes.

    Args:
        model: The model.
        graph: What it was traced to.
    """
    images, size = image_input(graph), other_size(graph)
    if images is None or size is None:
        return False
    example = torch.zeros(2, shape_of(images)[1], *size)
    return _holds(lambda: verify(trace(model, example), graph, batch_sizes=(2,)))


def agree_on_other_sizes(reference: fx.GraphModule, candidate: fx.GraphModule) -> bool:
    """Whether two graphs that were traced with images of one size are equal for another, too.

    Args:
        reference: A graph that takes images of any size.
        candidate: What was made of it.
    """
    size = other_size(reference)
    return _holds(lambda: verify(reference, candidate, batch_sizes=(2,), size=size))


def export_for_any_size(
    module: fx.GraphModule, path: Path, *, metadata: Mapping[str, Any]
) -> Export:
    """Write a graph as ONNX for images of any size; if that cannot be, for the traced one.

    Args:
        module: A graph.
        path: The file to write.
        metadata: What the file says of itself.

    Raises:
        ExportError: The graph cannot be written at all.
        ParityError: ONNX Runtime gives something else even for the traced size.
    """
    try:
        return export_onnx(module, path, any_size=True, metadata=metadata)
    except (ExportError, ParityError) as error:
        _log.info("the file takes one size of images only: %s", error.what)
        return export_onnx(module, path, metadata=metadata)


def _holds(check: Callable[[], object]) -> bool:
    try:
        check()
    except Exception as error:  # a graph may fail in any way with a size that it does not take
        _log.info("other sizes of images: %s", error)
        return False
    return True
