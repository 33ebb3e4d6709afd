"""Results on disk: one line of JSON a model, so that an interrupted run can go on."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from zoo.entries import Entry
from zoo.progress import Record


def load(path: Path) -> dict[str, Record]:
    """Results by name; a model that was run twice counts with its last result."""
    if not path.is_file():
        return {}
    found: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line that an interruption cut off
            continue
        found[record["name"]] = record
    return found


def append(path: Path, record: Record) -> None:
    """Add one result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut_off else "") + json.dumps(record) + "\n")


def remaining(
    entries: Iterable[Entry], done: Iterable[str], only: str = "", *, again: bool = False
) -> list[Entry]:
    """The models still to run.

    Args:
        entries: All of them.
        done: Names that have a result.
        only: A regular expression that a name has to hold.
        again: Whether to run those that have a result as well.
    """
    skipped = set() if again else set(done)
    return [e for e in entries if re.search(only, e.name) and e.name not in skipped]
