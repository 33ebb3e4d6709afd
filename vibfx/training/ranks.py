"""The processes that train one network together, as ``torchrun`` starts them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import fx

from vibfx.costs import CostModel
from vibfx.coupling import Coupling
from vibfx.data import Loader
from vibfx.errors import DataError
from vibfx.latency import LatencyModel, latency_model

Anything = TypeVar("Anything")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that measures, reports and writes files."""
        return self.rank == 0

    def share(self, value: Anything) -> Anything:
        """What the first process has, on all of them."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        shared: Anything = box[0]
        return shared

    def of_first(self, make: Callable[[], Anything]) -> Anything:
        """What the first process makes, on all of them; the others wait for it."""
        made: Anything = self.share(make() if self.is_first else None)  # type: ignore[assignment]
        return made

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of all processes' numbers, on all of them."""
        if self.world == 1:
            return value
        number = torch.tensor(value, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)


def current() -> Ranks:
    """This process; alone where ``torch.distributed`` was not initialised."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def costs_on_all(
    module: fx.GraphModule, coupling: Coupling, *, whole: fx.GraphModule | None = None
) -> CostModel:
    """The costs of a graph; a latency is what the first process measures, so that all decide alike.

    Args:
        module: A graph.
        coupling: What ``analyze`` found in it, or in the whole that it is what is left of.
        whole: That one, whose parameters may have shapes only.
    """

    def latency() -> LatencyModel:
        return current().of_first(lambda: latency_model(module, coupling))

    return CostModel(whole or module, coupling, latency=latency)


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes for as long as it takes, where ``torchrun`` started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def shard(loader: Loader, ranks: Ranks) -> None:
    """Let a loader give this process its share of every epoch.

    Raises:
        DataError: It cannot: every process would train on the same examples.
    """
    if ranks.world == 1:
        return
    for part in (loader, getattr(loader, "batch_sampler", None)):
        if hasattr(part, "set_shard"):
            part.set_shard(ranks.rank, ranks.world)  # type: ignore[union-attr]
            return
    if not isinstance(
        getattr(loader, "sampler", None), torch.utils.data.distributed.DistributedSampler
    ):
        raise DataError(
            f"{ranks.world} processes would train on the same examples",
            hint="Make the training loader with a torch.utils.data.DistributedSampler.",
        )
