"""What went wrong, made as small as it gets, and told apart from what went wrong before."""

import re
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.checking import Tally, check, prepare
from fuzzing.description import Description

ANALYSIS = -1  # instead of a mask's number: tracing, the analysis or gating failed


def kind_of(error: Exception) -> str:
    """What the error is and where it was raised, numbers left out."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    first = str(error).splitlines()[0] if str(error) else ""
    said = re.sub(r"[\d.]+(e-?\d+)?", "#", first.partition(";")[0])[:90]
    return f"{type(error).__name__} in {Path(frame.filename).name} {frame.name}: {said}"


def failure_of(description: Description, mask: int) -> str:
    """How this pair fails; empty if it does not."""
    try:
        network = prepare(description, Tally())
        if network is not None and mask != ANALYSIS:
            check(network, Tally(), mask, control=False)
    except Exception as error:  # whatever it is, it is the finding
        return kind_of(error)
    return ""


def shrunk(description: Description, mask: int, kind: str, seconds: float = 40.0) -> Description:
    """The simplest description found that fails in the same way, for some of the first masks."""
    end = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < end:
        progress = False
        for simpler in description.simpler():
            if time.monotonic() > end:
                break
            if failure_of(simpler, mask) == kind:
                description, progress = simpler, True
                break
    return description


@dataclass
class Findings:
    """All failures of a run, each kind shrunk the first few times and written to a file."""

    path: Path | None
    counts: Counter[str] = field(default_factory=Counter)
    shrink: int = 1

    def note(self, description: Description, mask: int, error: Exception) -> None:
        kind = kind_of(error)
        self.counts[kind] += 1
        if self.path is None or self.counts[kind] > self.shrink:
            return
        small = shrunk(description, mask, kind)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"# {kind}\n# mask {mask}\n# {error}\n{small}\n\n")
