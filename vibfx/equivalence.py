"""The oracle: does a rewritten graph compute the same function?

Checked on real numbers, in float64, on several random inputs and batch sizes. The error is divided
by how much the output changes between inputs: a network whose output hardly depends on its input
would pass any other check.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype, where
from vibfx.inputs import flattened, random_inputs
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

    Returns:
        The error that was measured.

    Raises:
        EquivalenceError: The graphs differ, and names the first node that does; or the output does
            not depend on the input, so that nothing can be told.
    """
    reference, candidate = _in_float64(reference), _in_float64(candidate)
    generator = torch.Generator().manual_seed(seed)
    difference = change = size = 0.0
    runs = 0
    worst: tuple[Tensor, ...] = ()
    for batch in batch_sizes:
        previous: list[Tensor] = []
        for _ in range(2):
            inputs = random_inputs(reference, batch, generator)
            with torch.no_grad():
                expected, actual = list(reference(*inputs)), list(candidate(*inputs))
            gap = _distance(expected, actual, candidate)
            if gap >= difference:
                difference, worst = gap, inputs
            size = max([size, *(_largest(x) for x in expected)])
            if previous:
                change = max(change, _distance(expected, previous, candidate))
            previous = expected
            runs += 1
    if change <= _INSENSITIVE * size:
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
    return Equivalence(error, change / size, allowed, runs)


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


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every node's value by name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op not in ("placeholder", "get_attr"):
            self.values[n.name] = value.detach()
        return value


class _DifferenceError(Exception):
    """The first difference was found; the rest need not run."""

    def __init__(self, node: fx.Node, gap: float) -> None:
        super().__init__(node, gap)
        self.node, self.gap = node, gap


class _Comparer(fx.Interpreter):
    """Runs a graph and compares each value with the one that is expected, which goes with that."""

    def __init__(
        self, module: fx.GraphModule, expected: dict[str, Tensor], tolerance: float
    ) -> None:
        super().__init__(module)
        self._expected, self._tolerance = expected, tolerance
        self._gates = set(gates_of(module))

    def run_node(self, n: fx.Node) -> Any:
        own = super().run_node(n)
        other = self._expected.pop(n.name, None)
        if other is None or str(n.target) in self._gates or n.meta.get("unscaled"):
            return own
        for dim, kept in n.meta.get("kept", {}).items():
            if other.size(dim) != kept.numel():
                other = other.index_select(dim, kept.to(other.device))
        if own.shape == other.shape:
            gap = _largest(own.double() - other.double())
            if not gap <= self._tolerance * _largest(other):
                raise _DifferenceError(n, gap)
        return own


def _first_difference(
    reference: fx.GraphModule,
    candidate: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    tolerance: float,
) -> tuple[str | None, str]:
    """The first node of the same name whose kept part has other values."""
    with torch.no_grad():
        recorder = _Recorder(reference)
        recorder.run(*inputs)
        try:
            _Comparer(candidate, recorder.values, tolerance).run(*inputs)
        except _DifferenceError as found:
            return where(found.node), f"; the first node that differs is {found.node.name} " + (
                f"(by {found.gap:.2e})"
            )
    return None, ""
