"""The widths that the runtime likes: how many units of each group it computes at once."""

import math

import numpy as np
from torch import fx

from vibfx.coupling import STAYS, Coupling
from vibfx.latency.kernels import NEVER, Blocks, Widths, kernel_of
from vibfx.latency.micro_benchmarks import channel_block
from vibfx.metrics import layers_of


def unit_steps(
    module: fx.GraphModule, coupling: Coupling, round_to: int | None = None
) -> list[int]:
    """For every group how many units are computed at once: 1 where each counts by itself.

    A convolution whose channels are no multiple of that takes as long as with the next one, or
    much longer, where its reader then has to work without blocks (``Kernel.blocks``).

    Args:
        module: A graph, gated or not.
        coupling: What ``analyze`` found in it.
        round_to: How many channels of any layer count as one step; by default those of a block of
            ONNX Runtime on this machine's CPU, for layers that it computes in blocks.
    """
    block = channel_block() if round_to is None else 1
    steps, group_of = [1] * len(coupling.groups), coupling.group_of
    for node, layer in layers_of(module):
        own = _steps(kernel_of(node, layer).blocks(block)) if round_to is None else (round_to,) * 2
        for slot in coupling.space.of_parameter(layer.weight):
            if slot.dim > 1 or own[slot.dim] == 1:
                continue
            units, entries = np.unique(coupling.units_of(slot), return_counts=True)
            for unit, count in zip(units, entries, strict=True):
                if unit != STAYS:
                    at_once = own[slot.dim] // math.gcd(own[slot.dim], int(count))
                    steps[group_of[unit]] = math.lcm(steps[group_of[unit]], at_once)
    return steps


def _steps(blocks: Blocks) -> Widths:
    """What the first two dimensions of a weight are padded to, where there are blocks."""
    return (1, 1) if NEVER in blocks.aligned else blocks.steps
