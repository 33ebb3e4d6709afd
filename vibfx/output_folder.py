"""The output folder: files are made aside and moved into place together, or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import fx

from vibfx.errors import CheckpointError, OutputError
from vibfx.export import save_program
from vibfx.model_files.manifest import MANIFEST, write_manifest
from vibfx.model_files.saved_graph import GRAPH_FILES, save_graph
from vibfx.planning import PruningPlan
from vibfx.report import Report, versions
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.course import PHASES

# How the names of folders begin in which a result is put together.
_ASIDE = ".vibfx-"

FILES = ("model.onnx", "model.pt2", *GRAPH_FILES, "plan.json", "report.json", MANIFEST)
"""What a result consists of."""


@contextlib.contextmanager
def staging(out: str | Path | None) -> Iterator[Path]:
    """A folder to work in: inside the output folder, so that files can be moved, or a temporary.

    Raises:
        OutputError: The output folder cannot be written.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="vibfx-") as name:
            yield Path(name)
        return
    parent = Path(out)
    try:
        created = [p for p in (parent, *parent.parents) if not p.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{_ASIDE}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=parent))
    except OSError as error:
        raise OutputError(
            f"the output folder cannot be written: {error.strerror}",
            where=str(parent),
            hint="Pass another folder with --out.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for made in created:
            if not any(made.iterdir()):
                made.rmdir()


def publish(
    folder: Path,
    out: Path,
    small: fx.GraphModule,
    found: PruningPlan,
    report: Report,
    command: str | None = None,
) -> None:
    """Write what is missing beside ``folder/model.onnx``, then move all files into place."""
    save_program(small, folder / "model.pt2")
    save_graph(small, folder)
    found.save(folder / "plan.json")
    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    written = [variant.file for variant in report.variants if not variant.problem]
    files = [*(file for file in FILES if file != MANIFEST), *written]
    write_manifest(
        folder, files, versions=report.versions, command=command, metrics=report.summary()
    )
    for left in out.glob("model.*.onnx"):  # an earlier result in another precision
        left.unlink()
    _move(folder, out, files)


def save(module: fx.GraphModule, out: str | Path) -> None:
    """Write a graph to a folder, for ``vibfx.load``: its text, its tensors, and their SHA-256.

    Args:
        module: A graph without gates, such as ``Compression.module`` after more training.
        out: The folder; files of these names in it are replaced, others stay.

    Raises:
        OutputError: The folder cannot be written, or the graph holds what no file can.
    """
    with staging(out) as folder:
        save_graph(module, folder)
        write_manifest(folder, GRAPH_FILES, versions=versions())
        _move(folder, Path(out), GRAPH_FILES)


def _move(folder: Path, out: Path, files: Sequence[str]) -> None:
    """Move files into place, the manifest last: without it nothing there passes for a result."""
    (out / MANIFEST).unlink(missing_ok=True)
    for file in (*files, MANIFEST):
        (folder / file).replace(out / file)


def checkpoints(
    out: str | Path | None, run: Mapping[str, str], *, resume: bool
) -> dict[str, Checkpoint]:
    """One for each phase of training, in the output folder; none without a folder.

    Args:
        out: The output folder.
        run: What the result depends on; a checkpoint of another run is refused.
        resume: Whether to go on with what is there.

    Raises:
        CheckpointError: There is one, and it is not to be gone on with.
    """
    if out is None:
        return {}
    folder = Path(out) / "checkpoint"
    found = {name: Checkpoint(folder / f"{name}.pt", dict(run)) for name in PHASES}
    if not resume and any(checkpoint.exists() for checkpoint in found.values()):
        raise CheckpointError(
            "there is the checkpoint of an unfinished run",
            where=str(folder),
            hint="Go on with it by --resume, or delete it to start anew.",
        )
    return found
