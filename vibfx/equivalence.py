"""The oracle: does a rewritten graph compute the same function?

Checked on real numbers, in float64, on several random inputs and batch sizes. The error is divided
by how much the output changes between inputs: a network whose output hardly depends on its input
would pass any other check.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype, where
from vibfx.inputs import Size, flattened, random_inputs
from vibfx.passes.set_mode import SetMode

# Below this change of the output between two inputs, relative to its size, rounding decides.
_INSENSITIVE = 1e-12

# What rounding may do to a number along the way: 16 units in the last place.
_ROUNDING = 2.0**-48

# A network that makes more of rounding than this share of its output's change cannot be compared.
_CHAOTIC = 1e-3


@dataclass(frozen=True)
class Equivalence:
    """What a successful check measured.

    Attributes:
        error: The largest difference of any output, divided by the largest change of the reference
            output between two inputs.
        sensitivity: That change, divided by the largest output.
        allowed: The largest error that passes: the tolerance, or what rounding alone does in a
            network that amplifies it.
        runs: How many pairs of outputs were compared.
    """

    error: float
    sensitivity: float
    allowed: float
    runs: int


def verify(
    reference: fx.GraphModule,
    candidate: fx.GraphModule,
    *,
    tolerance: float = 1e-9,
    batch_sizes: tuple[int, ...] = (3, 5),
    seed: int = 0,
    size: Size = None,
) -> Equivalence:
    """Check that two graphs compute the same function, in evaluation mode and float64.

    A deep network may amplify rounding a million times, so that a correct rewrite misses the
    tolerance. Before a difference counts, it is therefore compared with what the reference's own
    output does when all its parameters change in their last bits.

    Args:
        reference: The graph that is right by definition; a gated one, as a rule.
        candidate: The rewritten graph.
        tolerance: The largest error that passes.
        batch_sizes: The batches to try; each is run on two different inputs.
        seed: Of the inputs.
        size: Height and width of images; None for those that the reference was traced with.

    Returns:
        The error that was measured.

    Raises:
        EquivalenceError: The graphs differ, and names the first node that does; or the output does
            not depend on the input, so that nothing can be told.
    """
    reference, candidate = _in_float64(reference), _in_float64(candidate)
    generator = torch.Generator().manual_seed(seed)
    difference = change = largest = 0.0
    runs = 0
    worst: tuple[Tensor, ...] = ()
    for batch in batch_sizes:
        previous: list[Tensor] = []
        for _ in range(2):
            inputs = random_inputs(reference, batch, generator, size=size)
            with torch.no_grad():
                expected, actual = list(reference(*inputs)), list(candidate(*inputs))
            gap = _distance(expected, actual, candidate)
            if gap >= difference:
                difference, worst = gap, inputs
            largest = max([largest, *(_largest(x) for x in expected)])
            if previous:
                change = max(change, _distance(expected, previous, candidate))
            previous = expected
            runs += 1
    if change <= _INSENSITIVE * largest:
        raise EquivalenceError(
            "the check can tell nothing: the reference's output does not depend on its input",
            hint="A gate that governs every path has no open unit, or the weights are degenerate.",
        )
    error = difference / change
    allowed = tolerance
    if not error <= tolerance:
        rounding = _rounding(reference, worst) / change
        if rounding > _CHAOTIC:
            raise EquivalenceError(
                "the check can tell nothing: rounding alone changes the reference's output by "
                f"{rounding:.0e} of what another input does",
                hint="The weights, or the running statistics, are degenerate.",
            )
        if not error <= rounding:
            place, detail = _first_difference(reference, candidate, worst, tolerance)
            raise EquivalenceError(
                f"the rewritten graph computes something else: relative error {error:.2e}, "
                f"allowed {max(tolerance, rounding):.0e}{detail}",
                where=place,
            )
        allowed = rounding
    return Equivalence(error, change / largest, allowed, runs)


def _rounding(reference: fx.GraphModule, inputs: tuple[Tensor, ...]) -> float:
    """How far an output moves when every parameter changes in its last bits."""
    blurred = copy_graph_module(reference)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*blurred.parameters(), *blurred.buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.mul_(1 + _ROUNDING * noise.to(tensor.device))
        return _distance(list(reference(*inputs)), list(blurred(*inputs)), reference)


def _in_float64(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in float64 and evaluation mode, of flat inputs and results."""
    copy = to_dtype(copy_graph_module(flattened(module)), torch.float64)
    SetMode(training=False)(copy)
    return copy


def _distance(a: list[Tensor], b: list[Tensor], candidate: fx.GraphModule) -> float:
    if [x.shape for x in a] != [x.shape for x in b]:
        raise EquivalenceError(
            f"the outputs have other shapes: {[tuple(x.shape) for x in b]} instead of "
            f"{[tuple(x.shape) for x in a]}",
            where=type(candidate).__name__,
        )
    gaps = [_largest(x.double() - y.double()) for x, y in zip(a, b, strict=True)]
    return max((float("inf") if gap != gap else gap for gap in gaps), default=0.0)


def _largest(x: Tensor) -> float:
    return float(x.double().abs().max()) if x.numel() else 0.0


class _Stepwise(fx.Interpreter):
    """Runs a graph node by node and lets go of each value after its last use."""

    def steps(self, inputs: tuple[Tensor, ...]) -> Iterator[tuple[fx.Node, Any]]:
        """Every node with its value, in order."""
        self.args_iter = iter(inputs)
        for node in self.graph.nodes:
            self.env[node] = value = self.run_node(node)
            yield node, value
            for done in self.user_to_last_uses.get(node, ()):
                del self.env[done]


def _first_difference(
    reference: fx.GraphModule,
    candidate: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    tolerance: float,
) -> tuple[str | None, str]:
    """The first node of the same name whose kept part has other values.

    The two run side by side, so that hardly more is held in memory than by one of them alone.
    """
    gates = set(gates_of(candidate))
    shared = {n.name for n in candidate.graph.nodes} & {n.name for n in reference.graph.nodes}
    held: dict[str, Any] = {}
    with torch.no_grad():
        expected = _Stepwise(reference).steps(inputs)
        for node, own in _Stepwise(candidate).steps(inputs):
            if node.name not in shared:
                continue
            while node.name not in held:
                known, value = next(expected)
                if known.name in shared:
                    held[known.name] = value
            other = held.pop(node.name)
            if str(node.target) in gates or not _is_computed(node, own, other):
                continue
            gap = _gap_of_kept(node, own, other)
            if gap > tolerance * _largest(other):
                return where(node), f"; the first node that differs is {node.name} (by {gap:.2e})"
    return None, ""


def _is_computed(node: fx.Node, own: Any, other: Any) -> bool:
    """Whether a node's two values can be compared."""
    both = isinstance(own, Tensor) and isinstance(other, Tensor)
    return both and node.op not in ("placeholder", "get_attr") and not node.meta.get("unscaled")


def _gap_of_kept(node: fx.Node, own: Tensor, other: Tensor) -> float:
    """How far a value is from what is left of the other one; 0 where shapes do not tell."""
    for dim, kept in node.meta.get("kept", {}).items():
        if other.size(dim) != kept.numel():
            other = other.index_select(dim, kept.to(other.device))
    if own.shape != other.shape:
        return 0.0
    gap = _largest(own.double() - other.double())
    return float("inf") if gap != gap else gap
