"""What a result depends on: the date, the machine, the versions, the command."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path


def facts(command: str, packages: Sequence[str]) -> dict[str, str]:
    """For the head of a report, by name."""
    return {
        "Date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "Machine": f"{processor()}, {os.cpu_count()} cores, {memory()}",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages),
        "Command": f"`{command}`",
    }


def processor() -> str:
    """The processor's own name for itself, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory() -> str:
    """The memory of the machine."""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"


def version(package: str) -> str:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
