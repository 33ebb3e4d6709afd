"""From a graph to an exported program of PyTorch."""

from pathlib import Path

import torch
from torch import fx
from torch.export import Dim, ShapesCollection

from vibfx.inputs import call_arguments, has_batch, random_inputs, tensor_inputs
from vibfx.silence import silenced


def save_program(module: fx.GraphModule, path: str | Path) -> None:
    """Write a graph as an exported program, for ``torch.export.load``.

    It is called as the graph is.

    Args:
        module: A graph without gates.
        path: The ``.pt2`` file to write.
    """
    inputs = random_inputs(module, 2, torch.Generator().manual_seed(0))
    args, kwargs = call_arguments(module, inputs)
    shapes, batch = ShapesCollection(), Dim("batch")
    for node, tensor in zip(tensor_inputs(module), inputs, strict=True):
        if has_batch(node):
            shapes[tensor] = {0: batch}
    dynamic = shapes.dynamic_shapes(module, args, kwargs)
    with silenced():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
        for node in program.graph.nodes:  # lines of the model's source, and where they lie
            node.meta.pop("stack_trace", None)
        torch.export.save(program, path)
