"""The list of a result's files, by which a changed, torn or mixed result is found."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vibfx.errors import ModelFileError
from vibfx.model_files.refusals import OTHER_VERSION, damaged_graph, described

MANIFEST = "manifest.json"

FORMAT_VERSION = 1


def write_manifest(
    folder: Path,
    files: Iterable[str],
    *,
    versions: Mapping[str, str],
    command: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write down which files a folder holds, each with its size and SHA-256.

    Args:
        folder: Where they are, and where the list goes.
        files: Their names.
        versions: Of what they were made with.
        command: What made them.
        metrics: What they achieve, in a few numbers.
    """
    listed = {name: _entry(folder / name) for name in sorted(files)}
    content = {
        "format": FORMAT_VERSION,
        "command": command,
        "versions": dict(versions),
        "metrics": dict(metrics or {}),
        "files": listed,
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_manifest(folder: Path, needed: Iterable[str]) -> None:
    """Compare a folder's files with its list.

    Args:
        folder: The folder.
        needed: The files that must be there; others that were listed may have been taken away.

    Raises:
        ModelFileError: There is no list, a needed file is not on it or not there, or a file is not
            what was listed.
    """
    listed = _listed(folder / MANIFEST)
    for name in needed:
        if name not in listed or not (folder / name).is_file():
            raise ModelFileError(
                f"The result lacks {name}.", where=str(folder), hint="Copy the whole folder."
            )
    for name, entry in listed.items():
        path = folder / name
        if path.is_file() and _entry(path) != entry:
            raise ModelFileError(
                "The file is not the one that was written: its size or SHA-256 differs.",
                where=str(path),
                hint="Copy the whole folder again; what a run that was cut short left, make anew.",
            )


def _listed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, files = content["format"], content["files"]
    except OSError as error:
        raise ModelFileError(
            f"The manifest of the result cannot be read: {error.strerror}.",
            where=str(path),
            hint="Pass a folder that vibfx wrote.",
        ) from error
    except Exception as error:  # whatever a changed text makes fail
        raise ModelFileError(damaged_graph(described(error)).what, where=str(path)) from error
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"The manifest has format {version!r}; this version of vibfx reads {FORMAT_VERSION}.",
            where=str(path),
            hint=OTHER_VERSION,
        )
    if not isinstance(files, dict) or not all(_is_plain(name) for name in files):
        raise ModelFileError(damaged_graph("it lists no files").what, where=str(path))
    return files


def _is_plain(name: str) -> bool:
    """Whether a name leads nowhere but into the folder."""
    return Path(name).name == name


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
