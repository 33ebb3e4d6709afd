"""Activations that are computed again in the backward pass, so that they need not be kept."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

_COMPUTES = {"call_function", "call_method", "call_module"}


def recomputed(module: fx.GraphModule) -> nn.Module:
    """The same computation in segments, each of which keeps its inputs only.

    With as many segments as each has operations, memory for activations grows with the square root
    of the depth, for one more forward pass (Chen et al., *Training deep nets with sublinear memory
    cost*, arXiv 1604.06174).

    Args:
        module: A graph; the result has the same parameters and buffers.
    """
    order = [node for node in module.graph.nodes if node.op in _COMPUTES]
    length = max(1, math.isqrt(len(order)))
    segment_of = {node: position // length for position, node in enumerate(order)}
    found = split_module(module, module, segment_of.__getitem__, keep_original_order=True)
    statistics = {id(buffer) for buffer in module.buffers()}
    for node in found.graph.find_nodes(op="call_module"):
        segment = found.get_submodule(node.target)
        found.add_submodule(node.target, _Segment(segment, statistics))
    found.graph.set_codegen(module.graph._codegen)
    found.recompile()
    return found


class _Segment(nn.Module):
    """A part of a graph, called with parameters and buffers too, whose activations are not kept."""

    def __init__(self, part: nn.Module, statistics: set[int]) -> None:
        super().__init__()
        self._part, self._statistics = part, statistics

    def forward(self, *args: Any) -> Any:
        buffers = [value for value in args if id(value) in self._statistics]
        contexts = contextlib.nullcontext(), _unchanged(buffers)
        return checkpoint(self._part, *args, use_reentrant=False, context_fn=lambda: contexts)


@contextlib.contextmanager
def _unchanged(buffers: list[Tensor]) -> Iterator[None]:
    """The statistics of batch norms take note of a batch the first time only."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
