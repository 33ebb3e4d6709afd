"""The widths that the runtime likes: how many units of each group it computes at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from vibfx.components import Units
from vibfx.coupling import STAYS, Coupling
from vibfx.graph import is_tensor
from vibfx.latency.kernels import NEVER, Blocks, kernel_of
from vibfx.latency.layout import removable
from vibfx.latency.micro_benchmarks import channel_block
from vibfx.metrics import Layer, layers_of

aten = torch.ops.aten

# A block is a large step for a layer of few blocks, but where it has so small a share of the
# network's FLOPs that others make up for it. So these choices of what few are, the finest first.
_WIDE = (8, 4, 2, 1)
_SMALL = 0.1

# What takes its input in blocks only where all of them are full: else it is put in order, and
# again for the convolution behind.
_FULL_BLOCKS = (
    aten.max_pool2d.default,
    aten.max_pool2d_with_indices.default,
    aten.avg_pool2d.default,
    aten.cat.default,
    aten.concat.default,
)

# Widths that are no multiple of it are computed without blocks, and take much longer.
ALIGNED = 4


@dataclass(frozen=True)
class Step:
    """Which widths of a group are whole ones, for the runtime.

    Attributes:
        size: Multiples of it are.
        fine: Below it multiples of this are the best there is.
        slow: But none between these two: half a block takes less than a block, more than half takes
            longer.
    """

    size: int
    slow: tuple[int, int] = (0, 0)
    fine: int = ALIGNED

    def finer(self, size: int) -> "Step":
        """The same with multiples of the largest part of the step that is one of a size, too."""
        return replace(self, size=math.gcd(self.size, size))

    def is_whole(self, width: int) -> bool:
        """Whether a width is a whole number of steps."""
        return width % self.size == 0 and not self._is_slow(width)

    def at_most(self, width: int) -> int:
        """The largest whole width up to this one, but no group is emptied: then it is this one."""
        size = self.size if width >= self.size else math.gcd(self.size, self.fine)
        whole = width - width % size
        if self._is_slow(whole):
            whole = self.slow[0] - self.slow[0] % size
        return whole or width

    def above(self, width: int) -> int:
        """The next whole width above this one."""
        whole = width - width % self.size + self.size
        while self._is_slow(whole):
            whole += self.size
        return whole

    def _is_slow(self, width: int) -> bool:
        return self.slow[0] < width < self.slow[1]


def unit_steps(
    module: fx.GraphModule,
    coupling: Coupling,
    shares: npt.NDArray[np.float64],
    round_to: int | None = None,
) -> list[list[Step]]:
    """For every group which widths are whole ones, in several ways from fine steps to coarse ones.

    A convolution whose channels do not fill their last block takes as long as if they did, and
    where they are no multiple of 4, much longer: its reader has to work without blocks
    (``Kernel.blocks``). Fewer than a block are put in order for their reader, which then works
    without blocks as well: that pays from half a block down. In a narrow layer, where a block is a
    large share of it and of the network, they are multiples of 4 only; how narrow that is, the ways
    tell apart. A step of 1 allows any width.

    Args:
        module: A graph, gated or not.
        coupling: What ``analyze`` found in it.
        shares: The share of the network's FLOPs that each unit has.
        round_to: How many channels of any layer count as one step; by default those of a block of
            ONNX Runtime on this machine's CPU, for layers that it computes in blocks.
    """
    block = channel_block() if round_to is None else 1
    ways: list[list[Step]] = []
    for wide in _WIDE:
        steps = _steps(module, coupling, shares, round_to, block, wide)
        if steps not in ways:
            ways.append(steps)
    return ways


def _steps(
    module: fx.GraphModule,
    coupling: Coupling,
    shares: npt.NDArray[np.float64],
    round_to: int | None,
    block: int,
    wide: int,
) -> list[Step]:
    steps, blocked = [Step(1, fine=1)] * len(coupling.groups), set()
    for node, layer, dim, group, own in _parts(module, coupling):
        blocks = kernel_of(node, layer).blocks(block)
        if NEVER not in blocks.aligned:
            blocked.add(group)
        least = 1 if block * shares[own].mean() <= _SMALL else wide
        size = round_to or _size(blocks, dim, is_wide=own.size >= least * block)
        fine = ALIGNED if round_to else _size(blocks, dim, is_wide=False)
        reads_it_alone = dim == 1 and own.size == layer.shape[1] >= block
        direct = blocks.direct if reads_it_alone else 0
        for count in _channels_each(own):
            steps[group] = _joined(steps[group], size, fine, direct, count)
    for group, count in _in_full_blocks(module, coupling):
        if group in blocked:
            steps[group] = _joined(steps[group], block, 1, 0, count)
    return steps


def _parts(
    module: fx.GraphModule, coupling: Coupling
) -> Iterator[tuple[fx.Node, Layer, int, int, Units]]:
    """Of the first two dimensions of every layer's weight the units, group by group."""
    for node, layer in layers_of(module):
        for slot in coupling.space.of_parameter(layer.weight):
            if slot.dim <= 1:
                for group, own in _by_group(coupling.units_of(slot), coupling):
                    yield node, layer, slot.dim, group, own


def _by_group(units: Units, coupling: Coupling) -> Iterator[tuple[int, Units]]:
    """Those that may go, group by group."""
    group_of = np.append(coupling.group_of, STAYS)
    for group in np.unique(group_of[units[units != STAYS]]):
        yield int(group), units[group_of[units] == group]


def _channels_each(units: Units) -> list[int]:
    """How many channels units have, in ascending order."""
    return [int(count) for count in np.unique(np.unique(units, return_counts=True)[1])]


def _in_full_blocks(module: fx.GraphModule, coupling: Coupling) -> Iterator[tuple[int, int]]:
    """Groups that have to fill their blocks, each with how many channels a unit of it has."""
    labels = coupling.propagation.moved_to(module)
    nodes = [node for node in module.graph.nodes if node.target in _FULL_BLOCKS]
    for source in (source for node in nodes for source in node.all_input_nodes):
        for units in removable(labels.tagged(source), coupling) if is_tensor(source) else ():
            for group, own in _by_group(units, coupling):
                for count in _channels_each(own):
                    yield group, count


def _size(blocks: Blocks, dim: int, *, is_wide: bool) -> int:
    if NEVER in blocks.aligned:
        return 1
    return blocks.steps[dim] if is_wide else blocks.aligned[dim]


def _joined(step: Step, size: int, fine: int, direct: int, count: int) -> Step:
    """A step that suits one more layer, of which each unit has so many channels."""
    size, fine = (
        math.lcm(before, now // math.gcd(now, count))
        for before, now in ((step.size, size), (step.fine, fine))
    )
    return Step(size, (direct // 2 // count, -(-direct // count)) if direct else step.slow, fine)
