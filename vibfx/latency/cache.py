"""What was measured on this machine, kept on disk for the next time."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

# Lines of /proc/cpuinfo that say which processor this is; virtual ones share a model's name.
_PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "cache size", "flags", "Features")

_log = logging.getLogger(__name__)


class Cache:
    """A JSON file of plain values by name, one for each processor and version of ONNX Runtime.

    A file that cannot be read counts as empty; one that cannot be written costs the next run the
    time to measure again.

    Args:
        folder: Where it is; by default ``vibfx`` in the user's folder for caches, which the XDG
            base directory specification says is ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or _user_folder()) / f"latency-{_machine()}.json"
        self._known = self._read()

    def get(self, name: str) -> Any:
        """What is kept under a name, or None."""
        return self._known.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep a value; what other processes have kept meanwhile stays."""
        self._known = {**self._read(), **self._known, name: value}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self._path.parent, delete=False, encoding="utf-8"
            ) as file:
                json.dump(self._known, file)
            Path(file.name).replace(self._path)
        except OSError as error:
            _log.warning("nothing was kept in %s: %s", self._path, error.strerror)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _user_folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "vibfx"


def _machine() -> str:
    """A fingerprint of what times depend on."""
    facts = [_processor(), importlib.metadata.version("onnxruntime"), "threads=1", "batch=1"]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.partition(":")[0].strip() in _PROCESSOR)
