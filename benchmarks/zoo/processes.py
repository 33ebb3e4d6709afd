"""A worker in a process of its own, with limits on its time and its memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.progress import Record, failed

FOLDER = Path(__file__).resolve().parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")
GIGABYTE = 10**9
PAUSE = 0.1


@dataclass(frozen=True)
class Limits:
    """What one worker may use.

    Attributes:
        seconds: Wall-clock time.
        gigabytes: Resident memory.
        threads: Of torch.
    """

    seconds: float = 900.0
    gigabytes: float = 10.0
    threads: int = 1


def run_worker(arguments: list[str], limits: Limits) -> Record:
    """Run ``python ARGUMENTS`` and return the last record that it printed.

    A worker that exceeds a limit or dies leaves what it had printed, with the reason added.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(limits.threads)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=err, cwd=FOLDER, env=environment
        )
        started = time.monotonic()
        reason = watch(process, limits)
        record = last_record(out)
        if not reason and process.returncode:
            reason = f"exit code {process.returncode}: {last_line(err)}"
    if reason:
        record |= failed(record, f"{reason} (in {record.get('step', 'start')})")
    return {**record, "seconds": round(time.monotonic() - started, 1)}


def watch(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Wait until the process ends, or end it; the limit that it exceeded, if any."""
    until = time.monotonic() + limits.seconds
    reason = ""
    while process.poll() is None and not reason:
        if time.monotonic() > until:
            reason = f"time limit of {limits.seconds:g} s"
        elif resident(process.pid) > limits.gigabytes * GIGABYTE:
            reason = f"memory limit of {limits.gigabytes:g} GB"
        else:
            time.sleep(PAUSE)
    if reason:
        process.kill()
        process.wait()
    return reason


def resident(pid: int) -> int:
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
