"""What in a file may be a name: of parameters on modules, and in source that is made from it."""

import keyword
import re
from typing import Any

from torch import nn

_PART = re.compile(r"\w+", re.ASCII)

# What torch.fx puts between quotes, and lets nothing out of them.
_QUOTABLE = re.compile(r"[^.\"'\\\x00-\x1f]+")

# torch itself registers nothing under these; set by hand, it would take a method's place.
_TAKEN = frozenset(dir(nn.Module()))


def is_path(name: str) -> bool:
    """Whether this names a parameter as ``layer1.0.weight`` does, and nothing that modules have."""
    return all(
        _PART.fullmatch(part) and not part.startswith("__") and part not in _TAKEN
        for part in name.split(".")
    )


def is_quotable_path(name: str) -> bool:
    """Whether this names a parameter in any letters that stay within quotes: ``mix.a-b.weight``."""
    return all(map(_QUOTABLE.fullmatch, name.split(".")))


def is_identifier(name: Any) -> bool:
    """Whether this is a name in Python."""
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
