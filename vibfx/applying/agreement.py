"""Does a narrowed module compute what the cut graph does?"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError
from vibfx.graph import to_dtype
from vibfx.inputs import call_arguments, random_inputs

TOLERANCE = 1e-5
"""The largest difference of outputs that passes, relative to their change between two inputs."""

# One example at first: what is reshaped to a size that no longer fits fails at that place, where
# a batch could hide it.
_BATCHES = (1, 3)
_SEED = 0

# Below this change of the output between two inputs, relative to its size, rounding decides.
_INSENSITIVE = 1e-12

# How far the second run moves biases, scales and what is zero, so that none hides what it is on.
_NOISE = 0.3


@dataclass(frozen=True)
class Pair:
    """A narrowed module and the graph that it has to agree with, in one precision.

    Attributes:
        module: In evaluation mode.
        graph: The cut graph.
    """

    module: nn.Module
    graph: fx.GraphModule

    @classmethod
    def of(cls, module: nn.Module, graph: fx.GraphModule, dtype: torch.dtype) -> "Pair":
        """Copies of both."""
        twin = copy.deepcopy(module).eval()
        return cls(twin.to(dtype), to_dtype(copy_graph_module(graph), dtype))

    def error(self) -> float:
        """The largest difference of any output, relative to its change between two inputs.

        Raises:
            EquivalenceError: The output does not depend on the input.
            Exception: Whatever the module raises where it does not run.
        """
        gap, change = self._distances(_BATCHES)
        if change == 0.0:
            raise EquivalenceError(
                "the check can tell nothing: the cut network's output does not depend on its input",
                hint="The weights, or the running statistics, are degenerate.",
            )
        if not self._disturb():
            return gap / change
        disturbed, other = self._distances(_BATCHES[-1:])
        return max(gap / change, disturbed / (other or change))

    def inputs(self, batches: tuple[int, ...] = _BATCHES) -> Iterator[tuple[Tensor, ...]]:
        """Random inputs of several batch sizes, two of each."""
        generator = torch.Generator().manual_seed(_SEED)
        for batch in batches:
            for _ in range(2):
                yield random_inputs(self.graph, batch, generator)

    def _distances(self, batches: tuple[int, ...]) -> tuple[float, float]:
        """The largest difference of outputs, and their largest change between two inputs.

        The change is 0 where it is no more than rounding.
        """
        gap = change = largest = 0.0
        previous: list[Tensor] = []
        for inputs in self.inputs(batches):
            args, kwargs = call_arguments(self.graph, inputs)
            with torch.no_grad():
                actual = _tensors(self.module(*args, **kwargs))
                expected = _tensors(self.graph(*args, **kwargs))
            gap = max(gap, distance(actual, expected))
            largest = max([largest, *(_largest(x) for x in expected)])
            if [x.shape for x in previous] == [x.shape for x in expected]:
                change = max(change, distance(previous, expected))
            previous = expected
        return gap, change if change > _INSENSITIVE * largest else 0.0

    def _disturb(self) -> bool:
        """Move the weights of both alike that may hide others; whether there still are numbers."""
        own = dict(self.module.named_parameters(remove_duplicate=False))
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            for name, weight in self.graph.named_parameters():
                if weight.is_floating_point() and name in own and _may_hide(weight):
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.add_(_NOISE * noise.to(weight))
                    own[name].copy_(weight)
            args, kwargs = call_arguments(self.graph, next(self.inputs()))
            return all(bool(x.isfinite().all()) for x in _tensors(self.graph(*args, **kwargs)))


def runs_in_training(module: nn.Module, graph: fx.GraphModule) -> Exception | None:
    """What a module raises in training mode on inputs of the graph; None where it runs.

    Training may take a way that evaluation does not, such as an auxiliary head.

    Args:
        module: Left in training mode, with other running statistics.
        graph: A graph that takes the same inputs.
    """
    generator = torch.Generator().manual_seed(_SEED)
    args, kwargs = call_arguments(graph, random_inputs(graph, max(_BATCHES), generator))
    module.train()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            module(*args, **kwargs)
    except Exception as error:  # the model is the user's code, and may raise anything
        return error
    return None


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference; infinite where shapes differ or a number is none."""
    if [x.shape for x in a] != [x.shape for x in b]:
        return float("inf")
    gaps = [_largest(x.double() - y.double()) for x, y in zip(a, b, strict=True)]
    return max((float("inf") if gap != gap else gap for gap in gaps), default=0.0)


def _may_hide(weight: Tensor) -> bool:
    """Whether a weight varies along one dimension at most, or is zero."""
    return sum(size > 1 for size in weight.shape) <= 1 or not bool(weight.any())


def _largest(x: Tensor) -> float:
    return float(x.double().abs().max()) if x.numel() else 0.0


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
