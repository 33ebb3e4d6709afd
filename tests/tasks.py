"""A classification task that small networks learn in a second or two."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import traced
from torch import Tensor, fx, nn

from vibfx import delivery
from vibfx.data import Data
from vibfx.export import latencies
from vibfx.training import gated_training, phases
from vibfx.training.evaluation import evaluate
from vibfx.training.resuming import set_epoch

CLASSES = 4

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Import it to run a module on one thread: on small tensors, two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def short_latencies() -> Iterator[None]:
    """Import it for compressions: two seconds of measuring are for people, not for tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "latencies", partial(latencies, seconds=0.02))
        yield


def images(seed: int = 0, batches: int = 5, batch_size: int = 32) -> Batches:
    """Images 1x8x8: a random prototype for each class, and noise."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(CLASSES, 1, 8, 8, generator=generator)
    labels = torch.randint(CLASSES, (batches * batch_size,), generator=generator)
    noise = torch.randn(len(labels), 1, 8, 8, generator=generator)
    x = prototypes[labels] + 0.5 * noise
    return list(zip(x.split(batch_size), labels.split(batch_size), strict=True))


def convnet(seed: int = 0, classes: int = CLASSES) -> nn.Sequential:
    """Convolutions of 8 and 12 channels and a linear of 16; a batch norm, a dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(192, 16),
        nn.ReLU(),
        nn.Linear(16, classes),
    )


def graph(seed: int = 0) -> fx.GraphModule:
    """The network above, traced."""
    return traced(convnet(seed), (1, 8, 8))


def images_data(**changes):
    """The synthetic task as a data set."""
    loaders = {part: images(seed=seed) for seed, part in enumerate(("train", "validation", "test"))}
    classes = tuple(map(str, range(CLASSES)))
    return replace(Data("images", **loaders, classes=classes, preprocessing=None), **changes)


class Interrupting:
    """Batches, of which one, counted over all epochs, is Ctrl-C or another exception."""

    def __init__(
        self, batches: Batches, after: int, error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        self._batches, self.left, self._error = batches, after, error

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            if not self.left:
                raise self._error
            self.left -= 1
            yield batch

    def __len__(self) -> int:
        return len(self._batches)


class Left:
    """Batches; while one of them, counted over all epochs, is made, this process gets a signal."""

    def __init__(self, loader: Any, after: int, number: int = signal.SIGTERM) -> None:
        self.loader, self.left, self.number = loader, after, number

    def set_epoch(self, epoch: int) -> None:
        set_epoch(self.loader, epoch)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if self.left == 0:
                os.kill(os.getpid(), self.number)
            self.left -= 1
            yield batch


def modes(module: fx.GraphModule) -> set[bool]:
    """The training flags of a graph: the module's own, and those of its norms and dropouts."""
    places = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}
    flags = {bool(n.args[places[n.target]]) for n in module.graph.nodes if n.target in places}
    return flags | {part.training for part in module.modules()}


def mlp() -> nn.Sequential:
    """One hidden layer of 12 features."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def listing(folder: Path) -> list[str]:
    """The names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules of one form hold the same numbers."""
    its = b.state_dict()
    return all(torch.equal(value, its[name]) for name, value in a.state_dict().items())


def training_accuracy(module: nn.Module) -> float | None:
    """The share of the images that a module is right about."""
    return evaluate(module, images()).accuracy


def phase_of(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The phase that ``train`` or ``fine_tune`` hands to the loop, and the loop's other arguments.

    Nothing is trained.
    """
    caught = []

    def fit(module, loader, phase, **options):
        caught.append((phase, options))
        raise InterruptedError

    for place in (gated_training, phases):
        monkeypatch.setattr(place, "fit", fit)
    with pytest.raises(InterruptedError):
        run()
    return caught[0]
