"""What a random network is made of: a list of steps, every sublist of which is a network too."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

# How many numbers a step is given to choose with; those beyond count as 0.
NUMBERS = 8

INPUTS = ((3, 4, 4), (1, 6, 6), (4, 4), (6, 5), (5,))


@dataclass(frozen=True)
class Step:
    """One step: what it does, what it reads (0 is the newest tensor) and how it does it."""

    kind: str
    sources: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"step({self.kind!r}, {list(self.sources)}, {list(self.numbers)})"


@dataclass(frozen=True)
class Description:
    """A network: the shape of one example, steps, and the seed of its weights."""

    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    seed: int = 0

    def __str__(self) -> str:
        """Python code that makes it again."""
        lines = "".join(f"\n    {step}," for step in self.steps)
        return f"network(\n    {self.shape},{lines}\n    seed={self.seed},\n)"

    def simpler(self) -> Sequence["Description"]:
        """The descriptions that are one change simpler."""
        found = []
        for at, step in enumerate(self.steps):
            head, tail = self.steps[:at], self.steps[at + 1 :]
            found.append(replace(self, steps=head + tail))
            for name in ("sources", "numbers"):
                values = getattr(step, name)
                for place, value in enumerate(values):
                    if value:
                        fewer = (*values[:place], 0, *values[place + 1 :])
                        changed = replace(step, **{name: fewer})
                        found.append(replace(self, steps=(*head, changed, *tail)))
        return sorted(found, key=lambda other: len(other.steps))


def step(kind: str, sources: Sequence[int] = (), numbers: Sequence[int] = ()) -> Step:
    return Step(kind, tuple(sources), tuple(numbers))


def network(shape: Sequence[int], *steps: Step, seed: int = 0) -> Description:
    return Description(tuple(shape), steps, seed)


def networks(kinds: Sequence[str], weights: Sequence[int]) -> st.SearchStrategy[Description]:
    """Descriptions of up to a dozen steps; a kind is as frequent as its weight says."""
    often = [kind for kind, weight in zip(kinds, weights, strict=True) for _ in range(weight)]
    # The newest tensor is read most of the time, so that networks are deep.
    sources = st.tuples(st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 5)), st.integers(0, 5))
    numbers = st.tuples(*[st.integers(0, 23)] * NUMBERS)
    steps = st.builds(Step, st.sampled_from(often), sources, numbers)
    listed = st.lists(steps, min_size=3, max_size=12).map(tuple)
    # A layer first: only what a layer makes can be removed.
    first = st.builds(Step, st.just("first"), sources, numbers)
    return st.builds(_network, st.sampled_from(INPUTS), first, listed, st.integers(0, 99))


def _network(shape: Sequence[int], first: Step, rest: tuple[Step, ...], seed: int) -> Description:
    kind = "conv" if len(shape) == 3 else "linear_on_channels"
    return network(shape, replace(first, kind=kind), *rest, seed=seed)
