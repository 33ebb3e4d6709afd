"""The layers of a graph as the runtime sees them: operators whose widths may vary.

ONNX Runtime lays the channels of 2-d convolutions out in blocks where their widths allow it, and
takes a slower kernel where they do not (``core/optimizer/nchwc_transformer.cc`` of its source).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from vibfx.graph import concrete, shape_of
from vibfx.metrics import Layer
from vibfx.rules.convolution import CONVOLUTIONS, TRANSPOSED, groups_of, removes_whole_groups
from vibfx.rules.registry import RULES

# Sizes of the first two dimensions of a weight.
Widths = tuple[int, int]

# A multiple that no width is.
NEVER = 1 << 30

# The channels that a blocked convolution reads are a multiple of this.
_ALIGNED = 4


@dataclass(frozen=True)
class Blocks:
    """Which widths are computed in blocks.

    Attributes:
        steps: The multiples that the two widths are padded to in blocks.
        aligned: The multiples that they have to be; ``NEVER`` where there is no blocked kernel.
        direct: Second widths below this are read without blocks, so that any will do.
    """

    steps: Widths
    aligned: Widths
    direct: int = 0

    def hold(self, widths: Widths) -> bool:
        """Whether a layer of these widths is computed in blocks."""
        first, second = widths
        reads = second < self.direct or second % self.aligned[1] == 0
        return first % self.aligned[0] == 0 and reads


@dataclass(frozen=True)
class Kernel:
    """A layer but for how many channels are left of it.

    Attributes:
        op: ``Conv``, ``ConvTranspose``, ``Gemm`` (of one row) or ``MatMul``.
        space: The input's shape without its channels: height and width, or rows.
        attributes: The operator's, by ONNX's names, but for the groups.
        shape: The full shape of its weight.
        reads: The dimension of the weight that reads the input's channels.
        groups: How many groups there are at full width.
    """

    op: str
    space: tuple[int, ...]
    attributes: tuple[tuple[str, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    reads: int = 1
    groups: int = 1

    @property
    def full(self) -> Widths:
        """The full sizes of the first two dimensions of its weight."""
        return self.shape[0], self.shape[1]

    @property
    def rows(self) -> int:
        """How many entries of the weight's first dimension one group has."""
        return self.shape[0] // self.groups

    @property
    def loses_groups(self) -> bool:
        """Whether whole groups go, rather than the same channels of every group."""
        inside = (self.shape[1], self.rows) if self.reads else (self.rows, self.shape[1])
        return removes_whole_groups(*inside, self.groups)

    @property
    def units(self) -> Widths:
        """How many entries of the two dimensions go at once."""
        return (self.rows if self.loses_groups else self.groups), 1

    def groups_left(self, widths: Widths) -> int:
        """How many groups a weight of these widths has."""
        return widths[0] // self.rows if self.loses_groups else self.groups

    def blocks(self, block: int) -> Blocks:
        """Which widths the runtime computes in blocks.

        Args:
            block: How many channels it puts into one; 1 where it has no blocked kernels.
        """
        if self.op != "Conv" or len(self.space) != 2 or block == 1:
            return Blocks((1, 1), (NEVER, NEVER))
        if self.groups == 1:
            return Blocks((block, block), (1, _ALIGNED), direct=block)
        if self.loses_groups and self.rows == self.shape[1] == 1:  # depthwise
            return Blocks((block, 1), (_ALIGNED, 1))
        if self.loses_groups:
            fits = self.rows % block == self.shape[1] % block == 0
            return Blocks((1, 1), (1, 1) if fits else (NEVER, NEVER))
        steps = (self.groups * block, block)
        return Blocks(steps, steps)


def kernel_of(node: fx.Node, layer: Layer) -> Kernel:
    """The runtime's operator for a layer.

    A matrix of a recurrent layer is a product with as many rows as there are steps.

    Args:
        node: The layer's node.
        layer: The layer.
    """
    if node.target in CONVOLUTIONS:
        return _convolution(node, layer.shape)
    rows = max(round(layer.uses), 1)
    rule = RULES.get(node.target)
    reads = rule.weight_at.reads if rule and rule.weight_at else 1
    return Kernel("Gemm" if rows == 1 else "MatMul", (rows,), (), layer.shape, reads)


def _convolution(node: fx.Node, shape: tuple[int, ...]) -> Kernel:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    space = shape_of(given["input"])[2:]
    kernel, count = shape[2:], len(space)
    stride, dilation = (_each(given.get(name, 1), count) for name in ("stride", "dilation"))
    padding = given.get("padding", 0)
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilation}
    if isinstance(padding, str):
        wide = int(padding == "same")
        reach = [wide * d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        attributes["pads"] = (*(r // 2 for r in reach), *(r - r // 2 for r in reach))
    else:
        attributes["pads"] = _each(padding, count) * 2
    if node.target in TRANSPOSED:
        attributes["output_padding"] = _each(given.get("output_padding", 0), count)
        return Kernel("ConvTranspose", space, _sorted(attributes), shape, 0, groups_of(node))
    return Kernel("Conv", space, _sorted(attributes), shape, 1, groups_of(node))


def _sorted(attributes: dict[str, tuple[int, ...]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted(attributes.items()))


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """One number for each dimension: a single one holds for all."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(concrete(v) for v in (values * count if len(values) == 1 else values))
