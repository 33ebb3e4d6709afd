"""Batches: what a loader is, and how samples become batches."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor] | Tensor
"""Inputs float32 ``(N, ...)`` and their labels ``(N, ...)``: int64 are classes, floats values. Or
inputs alone."""

# The standard recipe moves colour images of 32 pixels by up to 4, other sizes in proportion. Digits
# and the like are centred: for them it is 1 of 28.
_SHIFT, _SHIFT_CENTRED = 4 / 32, 1 / 28
_COLOURS = 3

# The splits do not follow the user's seed, so that no run chooses by images another trained on.
_SPLIT_SEED = 0


class Loader(Protocol):
    """What training and evaluation iterate over, once an epoch; a ``DataLoader`` is one."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one more epoch."""

    def __len__(self) -> int:
        """How many batches an epoch has."""


@dataclass(frozen=True)
class Normalization:
    """``(pixel - mean) / std``, channel by channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def inputs_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """A batch in two: of inputs alone, or of a sequence of one, the labels are None."""
    if isinstance(batch, Tensor):
        return batch, None
    return batch[0], batch[1] if len(batch) > 1 else None


class BatchOrder:
    """Which samples make up each batch, epoch by epoch.

    A shuffled order is one for training: a last batch with a single sample is left out, since
    batch norm cannot train on one. In the plain order nothing is.

    Args:
        count: How many samples there are.
        batch_size: How many go in a batch.
        shuffle: Whether every epoch has a new random order.
        seed: Fixes, with the number of the epoch, everything random in that epoch.

    Attributes:
        epoch: The epoch that starts next.
        shard: Which of how many processes this is: each has a share of as many samples of what all
            of them have in a step, and none has what would not be shared evenly.
    """

    def __init__(self, count: int, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.epoch = 0
        self.shard = (0, 1)
        self._count = count
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed

    def __len__(self) -> int:
        """How many batches an epoch has."""
        world = self.shard[1]
        whole, rest = divmod(self._count, self._batch_size * world)
        return whole + (rest // world > (1 if self._shuffle else 0))

    def next_epoch(self) -> tuple[list[Tensor], torch.Generator]:
        """Start an epoch.

        Returns:
            The sample numbers of every batch, and the epoch's own generator for what else is
            random in it.
        """
        generator = _epoch_generator(self._seed, self.epoch)
        if self._shuffle:
            order = torch.randperm(self._count, generator=generator)
        else:
            order = torch.arange(self._count)
        rank, world = self.shard
        together = torch.split(order, self._batch_size * world)[: len(self)]
        own = [numbers[: len(numbers) // world * world][rank::world] for numbers in together]
        if rank:
            generator = _epoch_generator(self._seed, self.epoch, rank)
        self.epoch += 1
        return own, generator


def _epoch_generator(*numbers: int) -> torch.Generator:
    # torch's generator uses 32 bits of its seed, so the numbers have to be mixed well.
    mixed = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


class TensorLoader:
    """Batches of samples held in memory.

    Bytes stay bytes until their batch is made; then they are scaled to [0, 1]. Floats are taken as
    they are.

    Args:
        x: All samples, uint8 or float32, ``(N, C, H, W)`` or ``(N, D)``.
        y: Their labels ``(N, ...)``, if there are any.
        batch_size: How many samples go in a batch.
        normalization: Applied after the scaling.
        augment: Whether images are changed at random, see ``augmented``.
        shuffle: Whether every epoch has a new random order; then a last batch with a single sample
            is left out.
        seed: Fixes order and augmentation of every epoch.

    Attributes:
        labels: Those of all samples, if there are any.
        augments: Whether a sample differs from epoch to epoch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        batch_size: int,
        normalization: Normalization | None = None,
        augment: bool = False,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self._x = x
        self.labels = y
        self._batch_size = batch_size
        self.augments = augment
        self._order = BatchOrder(len(x), batch_size=batch_size, shuffle=shuffle, seed=seed)
        self._normalization: tuple[Tensor, Tensor] | None = None
        if normalization is not None:
            per_channel = (-1,) + (1,) * (x.dim() - 2)
            mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
            self._normalization = mean.view(per_channel), std.view(per_channel)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """How much memory the samples take."""
        return self._x.nbytes + (0 if self.labels is None else self.labels.nbytes)

    def to(self, device: torch.device) -> None:
        """Keep the samples on a device, where their batches are then made: the same batches."""
        self._x = self._x.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        if self._normalization is not None:
            mean, std = self._normalization
            self._normalization = mean.to(device), std.to(device)

    def in_order(self) -> "TensorLoader":
        """All samples as they are held, in the same process."""
        other = copy(self)
        other._order = BatchOrder(len(self._x), batch_size=self._batch_size, shuffle=False, seed=0)
        return other

    def numbered(self) -> "TensorLoader":
        """The same batches in the same order, with the samples' numbers for labels."""
        other = copy(self)
        other.labels = torch.arange(len(self._x), device=self._x.device)
        return other

    def set_shard(self, rank: int, world: int) -> None:
        """Which of how many processes this is, each of which trains on its share."""
        self._order.shard = (rank, world)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch starts next, from 0: each has its own order and augmentation."""
        self._order.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one more epoch."""
        batches, generator = self._order.next_epoch()
        for numbers in batches:
            places = numbers.to(self._x.device)
            x = self._inputs(places, generator)
            yield x if self.labels is None else (x, self.labels[places])

    def _inputs(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        # Indexing copies, so what follows may work in place.
        x = self._x[numbers]
        if self.augments:
            x = augmented(x, generator)
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).div_(255)
        if self._normalization is None:
            return x
        mean, std = self._normalization
        return x.sub_(mean).div_(std)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by a few pixels, black coming in; mirror half of those in colour.

    A mirrored digit would be another digit, or none. On the images' device, a whole batch at once;
    torchvision's transforms would crop all of a batch alike.

    Args:
        images: ``(N, C, H, W)`` of any type.
        generator: Where the randomness comes from.

    Returns:
        New images of the same shape and type.
    """
    count, channels, height, width = images.shape
    shift = _SHIFT if channels == _COLOURS else _SHIFT_CENTRED
    pad_y, pad_x = max(1, round(shift * height)), max(1, round(shift * width))
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    # A view of every possible crop, from which one an image is taken.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    top = torch.randint(2 * pad_y + 1, (count,), generator=generator)
    left = torch.randint(2 * pad_x + 1, (count,), generator=generator)
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    top, left, mirrored = (drawn.to(images.device) for drawn in (top, left, mirrored))
    moved = crops[torch.arange(count, device=images.device), :, top, left]
    return torch.where(mirrored, moved.flip(-1), moved) if channels == _COLOURS else moved


class SeededBatches:
    """A ``batch_sampler`` that gives every sample a seed of its own, new in every epoch.

    Its keys are pairs ``(number, seed)`` for ``SeededSamples``. So an epoch comes out the same with
    any number of worker processes.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int) -> None:
        self._order = BatchOrder(count, batch_size=batch_size, shuffle=True, seed=seed)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._order)

    def set_shard(self, rank: int, world: int) -> None:
        """Which of how many processes this is, each of which trains on its share."""
        self._order.shard = (rank, world)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch starts next, from 0: each has its own order and seeds."""
        self._order.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The keys of every batch of one more epoch."""
        batches, generator = self._order.next_epoch()
        for numbers in batches:
            seeds = torch.randint(2**32, numbers.shape, generator=generator)
            yield list(zip(numbers.tolist(), seeds.tolist(), strict=True))


class SeededSamples(torch.utils.data.Dataset[Any]):
    """Samples with random transforms, each drawn with a seed that its key gives.

    Args:
        samples: A data set whose randomness is torch's.
    """

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """The sample with the first number of ``key``, drawn with the second as seed."""
        number, seed = key
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's: torch.manual_seed would reset the accelerator's generator as well.
            torch.default_generator.manual_seed(seed)
            return self.samples[number]


def collate(samples: Sequence[Any]) -> Batch:
    """One batch of samples, as a tuple where torch's own collation makes a list."""
    if isinstance(samples[0], Tensor):
        return torch.stack(list(samples))
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def hold_out(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split samples in two, with every class in both in proportion; always the same split.

    Args:
        labels: The label of every sample.
        count: How many samples to hold out.

    Returns:
        The numbers of the samples that stay and of those held out, each in rising order.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    # Evenly spaced places in an order by class give each class its share, to within one sample.
    places = (2 * torch.arange(count) + 1) * len(labels) // (2 * count)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[places]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
