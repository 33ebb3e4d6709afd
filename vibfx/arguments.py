"""Example inputs as the user writes them: positional or by name, nested, with constants."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from vibfx.errors import TraceError

Inputs = Any
"""A tensor, a sequence of positional arguments, or a mapping of arguments by name."""

# What is no tensor is part of the model's configuration: it is baked into the graph.
_CONSTANTS = (bool, int, float, complex, type(None), torch.dtype, torch.device)

_HINT = (
    "Pass a tensor, a sequence of positional arguments or a mapping of arguments by name: "
    "tensors with the batch first, numbers and None, nested as the model takes them."
)


@dataclass(frozen=True)
class Arguments:
    """What a model is called with, ``model(*args, **kwargs)``.

    Attributes:
        args: The positional arguments.
        kwargs: The arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in their flat order."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def batch_sizes(self) -> list[int]:
        """The sizes of first dimensions, the likeliest batch first.

        The batch is the size that the most inputs begin with, and of several the first one's.
        """
        sizes = [x.shape[0] for x in self.tensors if x.dim()]
        return sorted(dict.fromkeys(sizes), key=sizes.count, reverse=True)

    def with_batch(self, size: int) -> "Arguments":
        """The same with two examples in place of one, in every input that has the batch ``size``.

        A batch of one would be taken for a constant when the graph is captured.
        """
        if size != 1:
            return self
        args, kwargs = pytree.tree_map(_doubled, (self.args, self.kwargs))
        return Arguments(args, kwargs)


def _doubled(leaf: Any) -> Any:
    one = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == 1
    return torch.cat([leaf, leaf]) if one else leaf


def arguments(example_inputs: Inputs, kwargs: Mapping[str, Any] | None = None) -> Arguments:
    """The arguments that example inputs stand for.

    Args:
        example_inputs: A tensor, a sequence of positional arguments, or a mapping of arguments by
            name. Dataclasses among them are registered as pytrees.
        kwargs: More arguments by name.

    Raises:
        TraceError: An argument is neither tensor nor constant, a batch is empty, or there is no
            tensor at all.
    """
    by_name = dict(kwargs or {})
    if isinstance(example_inputs, Mapping):
        given = Arguments((), {**example_inputs, **by_name})
    elif isinstance(example_inputs, Tensor) or not isinstance(example_inputs, Iterable):
        given = Arguments((example_inputs,), by_name)
    else:
        given = Arguments(tuple(example_inputs), by_name)
    register_dataclasses((given.args, given.kwargs))
    for leaf in pytree.tree_leaves((given.args, given.kwargs)):
        _check(leaf)
    if not given.tensors:
        raise TraceError("none of the example inputs is a tensor", hint=_HINT)
    return given


def _check(leaf: Any) -> None:
    if isinstance(leaf, Tensor):
        if leaf.dim() and not leaf.shape[0]:
            raise TraceError(
                f"an example input of shape {tuple(leaf.shape)} holds no examples",
                hint="Give a batch of at least one example.",
            )
    elif not is_known(leaf):
        raise TraceError(f"an example input is {type(leaf).__name__}", hint=_HINT)


def is_known(leaf: Any) -> bool:
    """Whether an argument or a result is a tensor or a constant, and no container of its own."""
    return isinstance(leaf, (Tensor, *_CONSTANTS))


def register_dataclasses(value: Any) -> bool:
    """Make pytrees of the dataclasses in a value, so that their tensors are seen.

    Returns:
        Whether there was one that was not registered yet.
    """
    found = False
    while unknown := {type(x) for x in pytree.tree_leaves(value) if _is_dataclass(x)}:
        for kind in unknown:
            # The name is what a saved program knows it by.
            name = f"{kind.__module__}.{kind.__qualname__}"
            torch.export.register_dataclass(kind, serialized_type_name=name)
        found = True
    return found


def _is_dataclass(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, (type, Tensor))
