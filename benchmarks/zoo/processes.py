"""A worker in a process of its own, with limits on its time and its memory."""

import importlib
import json
import multiprocessing as mp
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

from zoo.progress import Record, failed

PAGE = os.sysconf("SC_PAGE_SIZE")
GIGABYTE = 10**9
PAUSE = 0.1


@dataclass(frozen=True)
class Limits:
    """What one worker may use.

    Attributes:
        seconds: Wall-clock time.
        gigabytes: Resident memory.
    """

    seconds: float = 600.0
    gigabytes: float = 10.0


def prepare(modules: list[str], threads: int) -> None:
    """Let workers start with these modules imported and torch on so many threads each.

    Call it before the first worker: they are forked from a server that imports once.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    mp.set_forkserver_preload(modules)


def run_worker(module: str, arguments: list[str], limits: Limits) -> Record:
    """Run a module's ``main`` on a command line and return the last record that it printed.

    A worker that exceeds a limit or dies leaves what it had printed, with the reason added.
    """
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        process = mp.get_context("forkserver").Process(
            target=work, args=(module, arguments, out.name, err.name)
        )
        started = time.monotonic()
        process.start()
        reason = watch(process, limits)
        record = last_record(out)
        if not reason and process.exitcode:
            reason = f"exit code {process.exitcode}: {last_line(err)}"
    if reason:
        record |= failed(record, f"{reason} (in {record.get('step', 'start')})")
    return {**record, "seconds": round(time.monotonic() - started, 1)}


def work(module: str, arguments: list[str], out: str, err: str) -> None:
    """What runs in the worker, its two streams in files."""
    for name, stream in ((out, sys.stdout), (err, sys.stderr)):
        with Path(name).open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


def watch(process: ForkServerProcess, limits: Limits) -> str:
    """Wait until the process ends, or end it; the limit that it exceeded, if any."""
    until = time.monotonic() + limits.seconds
    reason = ""
    while process.is_alive() and not reason:
        if time.monotonic() > until:
            reason = f"time limit of {limits.seconds:g} s"
        elif resident(process.pid) > limits.gigabytes * GIGABYTE:
            reason = f"memory limit of {limits.gigabytes:g} GB"
        else:
            process.join(PAUSE)
    if reason:
        process.kill()
    process.join()
    return reason


def resident(pid: int | None) -> int:
    """Bytes of memory that a process holds; 0 if it is gone or the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def last_record(lines: IO[str]) -> Record:
    """The last line that is a JSON object; models may print as well."""
    lines.seek(0)
    found: Record = {}
    for line in lines:
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:  # cut off, or not ours
                continue
    return found


def last_line(lines: IO[str]) -> str:
    """What the process said last."""
    lines.seek(0)
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:200] if said else ""
