"""The widths that the runtime likes: how many units of each group it computes at once."""

import math

import numpy as np
import numpy.typing as npt
from torch import fx

from vibfx.coupling import STAYS, Coupling
from vibfx.latency.kernels import NEVER, Blocks, kernel_of
from vibfx.latency.micro_benchmarks import channel_block
from vibfx.metrics import layers_of

# A block is too large a step for a layer of fewer blocks than this, but where it has so small a
# share of the network's FLOPs that others make up for it. There it is the least that takes any
# time: fewer channels are computed no faster.
_WIDE, _WIDE_WHERE_SMALL = 8, 1
_SMALL = 0.1


def unit_steps(
    module: fx.GraphModule,
    coupling: Coupling,
    shares: npt.NDArray[np.float64],
    round_to: int | None = None,
) -> list[int]:
    """For every group how many units its width should be a multiple of; 1 where any width will do.

    A convolution whose channels do not fill their last block takes as long as if they did, and
    where they are no multiple of 4, much longer: its reader has to work without blocks
    (``Kernel.blocks``). In a narrow layer, where a block is a large share of it and of the network,
    they are multiples of 4 only.

    Args:
        module: A graph, gated or not.
        coupling: What ``analyze`` found in it.
        shares: The share of the network's FLOPs that each unit has.
        round_to: How many channels of any layer count as one step; by default those of a block of
            ONNX Runtime on this machine's CPU, for layers that it computes in blocks.
    """
    block = channel_block() if round_to is None else 1
    steps, group_of = [1] * len(coupling.groups), np.append(coupling.group_of, STAYS)
    for node, layer in layers_of(module):
        blocks = kernel_of(node, layer).blocks(block)
        for slot in coupling.space.of_parameter(layer.weight):
            if slot.dim > 1:
                continue
            units = coupling.units_of(slot)
            for group in np.unique(group_of[units[units != STAYS]]):
                own = units[group_of[units] == group]
                is_small = block * shares[own].mean() <= _SMALL
                wide = (_WIDE_WHERE_SMALL if is_small else _WIDE) * block
                step = round_to or _step(blocks, slot.dim, is_wide=own.size >= wide)
                _, entries = np.unique(own, return_counts=True)
                for count in np.unique(entries):
                    steps[group] = math.lcm(steps[group], step // math.gcd(step, int(count)))
    return steps


def _step(blocks: Blocks, dim: int, *, is_wide: bool) -> int:
    if NEVER in blocks.aligned:
        return 1
    return blocks.steps[dim] if is_wide else blocks.aligned[dim]
