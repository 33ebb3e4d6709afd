"""One model of the zoo: its name, how to build it, and inputs that it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Built = tuple[nn.Module, Inputs]


@dataclass(frozen=True)
class Entry:
    """A model, built on demand: the list itself costs nothing.

    Attributes:
        name: ``family/model``, unique.
        build: Makes the model with random weights, and example inputs with a batch of two.
        note: What differs from the published architecture, if anything.
    """

    name: str
    build: Callable[[], Built]
    note: str = ""

    @property
    def family(self) -> str:
        """What stands before the slash."""
        return self.name.partition("/")[0]


def call(model: nn.Module, inputs: Inputs) -> object:
    """Run a model: a mapping holds keyword arguments."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
