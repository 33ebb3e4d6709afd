"""Names by which a file may set parameters on modules."""

import re

from torch import nn

_PART = re.compile(r"\w+", re.ASCII)

# torch itself registers nothing under these; set by hand, it would take a method's place.
_TAKEN = frozenset(dir(nn.Module()))


def is_path(name: str) -> bool:
    """Whether this names a parameter as ``layer1.0.weight`` does, and nothing that modules have."""
    return all(
        _PART.fullmatch(part) and not part.startswith("__") and part not in _TAKEN
        for part in name.split(".")
    )
