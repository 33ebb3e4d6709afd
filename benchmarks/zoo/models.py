"""The list of all models."""

from functools import cache

from zoo import from_timm, from_torchvision, from_transformers
from zoo.entries import Entry


@cache
def entries() -> tuple[Entry, ...]:
    """Every model, in the order in which they are run and listed."""
    lists = (from_torchvision, from_timm, from_transformers)
    return tuple(entry for source in lists for entry in source.entries())


def find(name: str) -> Entry:
    """The entry with this name.

    Raises:
        KeyError: There is none.
    """
    return {entry.name: entry for entry in entries()}[name]
