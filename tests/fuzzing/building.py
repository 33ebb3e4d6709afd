"""From a description to a model with random weights."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fuzzing.description import NUMBERS, Description, Step

LARGEST = 4096  # elements of one example
LEAVES = 4  # how many unread tensors the head joins


class NotHereError(Exception):
    """A step does not fit the tensors that there are; it is left out."""


class Apply(nn.Module):
    """Layers and parameters by name, and what is done with them: ``function(self, *tensors)``."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))
        self._function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self._function(self, *tensors)


class Pick:
    """What a step chooses from: the tensors so far, newest last, and its numbers."""

    def __init__(self, pool: Sequence[Tensor], step: Step) -> None:
        self.pool = pool
        self._numbers = iter([*step.numbers, *[0] * (3 * NUMBERS)])
        self._sources = iter([*step.sources, *[0] * 4])
        self.chosen: list[int] = []

    def number(self, below: int) -> int:
        return next(self._numbers) % below

    def of(self, *options: Any) -> Any:
        """One of several, the simplest first."""
        return options[self.number(len(options))]

    def flag(self) -> bool:
        return bool(self.number(2))

    def tensor(self, accept: Callable[[Tensor], bool] = lambda x: x.dim() > 1) -> Tensor:
        """One of the tensors that are accepted, by the step's next source."""
        found = [at for at, x in enumerate(self.pool) if accept(x)]
        if not found:
            raise NotHereError
        self.chosen.append(found[-1 - next(self._sources) % len(found)])
        return self.pool[self.chosen[-1]]

    def image(self) -> Tensor:
        return self.tensor(lambda x: x.dim() == 4)

    def sequence(self) -> Tensor:
        return self.tensor(lambda x: x.dim() == 3)

    def like(self, x: Tensor) -> Tensor:
        """Another tensor of the same shape; the same one if there is no other."""
        own = self.chosen[-1]
        others = [at for at, y in enumerate(self.pool) if y.shape == x.shape and at != own]
        picked = others[-1 - next(self._sources) % len(others)] if others else own
        self.chosen.append(picked)
        return self.pool[picked]


# A step looks at the shapes of what it picks and returns what to do with them.
StepFunction = Callable[[Pick], nn.Module]
STEPS: dict[str, StepFunction] = {}
WEIGHTS: dict[str, int] = {}


def register(weight: int = 1) -> Callable[[StepFunction], StepFunction]:
    def note(function: StepFunction) -> StepFunction:
        STEPS[function.__name__] = function
        WEIGHTS[function.__name__] = weight
        return function

    return note


def axis(x: Tensor) -> int:
    """The dimension of the channels: 1 of an image or a vector, the last of a sequence."""
    return 2 if x.dim() == 3 else 1


class Network(nn.Module):
    """Runs the steps over a pool of tensors, then a head over what is unread."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.reads: list[list[int]] = []
        pool = [torch.randn(2, *description.shape)]
        for step in description.steps:
            try:
                self._add(step, pool)
            except NotHereError:
                continue
        self._head(pool, description.seed)

    def _add(self, step: Step, pool: list[Tensor]) -> None:
        pick = Pick(pool, step)
        layer = STEPS[step.kind](pick).eval()
        with torch.no_grad():
            made = list(_flat(layer(*(pool[at] for at in pick.chosen))))
        if not all(1 <= y[0].numel() <= LARGEST and y.dim() in (2, 3, 4) for y in made):
            raise NotHereError
        self.layers.append(layer)
        self.reads.append(pick.chosen)
        pool.extend(made)

    def _head(self, pool: list[Tensor], seed: int) -> None:
        """What nothing has read yet, pooled and joined; a second result for every third seed."""
        read = {at for reads in self.reads for at in reads}
        unread = [at for at in range(len(pool)) if at not in read]
        self.taken = [unread[-LEAVES:]]
        if seed % 3 == 0:
            self.taken.append([len(pool) // 2])
        widths = [sum(pool[at].shape[axis(pool[at])] for at in taken) for taken in self.taken]
        self.heads = nn.ModuleList(nn.Linear(width, 3) for width in widths)

    def forward(self, x: Tensor) -> Any:
        pool = [x]
        for layer, reads in zip(self.layers, self.reads, strict=True):
            pool.extend(_flat(layer(*(pool[at] for at in reads))))
        results = [
            head(torch.cat([_pooled(pool[at]) for at in taken], 1))
            for head, taken in zip(self.heads, self.taken, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for part in value:
            yield from _flat(part)


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x


def build(description: Description) -> nn.Module:
    """The model, with weights, norms and running statistics away from their trivial start."""
    torch.manual_seed(description.seed)
    model = Network(description)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() > 1:
                parameter.copy_(noise * max(2, parameter[0].numel()) ** -0.5)
            else:
                parameter.add_(0.3 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()
