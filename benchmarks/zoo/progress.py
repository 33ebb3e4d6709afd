"""What a worker has found so far, printed after every step: one that is killed loses little."""

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.entries import Entry
from zoo.models import find

Record = dict[str, Any]

LONGEST_MESSAGE = 200


class Progress:
    """The record of one worker.

    Attributes:
        record: What is known; ``step`` is what is being done, ``status`` how it ended.
    """

    def __init__(self, **known: Any) -> None:
        self.record: Record = dict(known)

    def note(self, **found: Any) -> None:
        """Add to the record and print all of it as one line of JSON."""
        self.record.update(found)
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.record["peak_mb"] = round(kibibytes / 1024)
        print(json.dumps(self.record), flush=True)

    @contextmanager
    def step(self, name: str, seconds: str = "") -> Iterator[None]:
        """Say what is being done, and keep its processor time under ``seconds``.

        The garbage collector passes over all that was there before: going through every object of
        every library takes as long as a step, and falls to now this one, now that.
        """
        self.note(step=name)
        gc.collect()
        gc.freeze()
        start = time.process_time()
        yield
        if seconds:
            self.record[seconds] = round(time.process_time() - start, 4)
        gc.unfreeze()

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Whatever is raised becomes the status, with its type and its first line."""
        try:
            yield
        except Exception as error:  # the point is to write down whatever happens
            self.note(**failed(self.record, f"{type(error).__name__}: {first_line(error)}"))


def failed(record: Record, reason: str) -> Record:
    """What a failure adds: the status, or what stopped the steps after it if there is one."""
    return {"stopped" if "status" in record else "status": reason}


def first_line(error: BaseException) -> str:
    """The first line of a message that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:LONGEST_MESSAGE] if lines else ""


def entry_from_arguments() -> Entry:
    """The model that the command line names."""
    try:
        return find(sys.argv[1])
    except (IndexError, KeyError):
        sys.exit("the first argument is the name of a model, as in torchvision/resnet18")
