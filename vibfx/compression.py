"""The whole way in one call: from a trained model to a verified, compressed ONNX file."""

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from vibfx.budgets import check_reachable, parse_target
from vibfx.components import Norms
from vibfx.copying import copy_graph_module
from vibfx.coupling import analyze
from vibfx.data import Data
from vibfx.equivalence import verify
from vibfx.errors import CheckpointError, DataError, NothingRemovableError, OutputError
from vibfx.graph import digest, refresh_shapes, shape_of, to_dtype
from vibfx.metrics import measure, shares
from vibfx.onnx_export import export_onnx, latencies, save_program
from vibfx.passes.fold_gates import FoldGates
from vibfx.passes.insert_gates import InsertGates
from vibfx.passes.prune_channels import PruneChannels
from vibfx.planning import PruningPlan, plan
from vibfx.report import Report, layer_changes, side, versions
from vibfx.tracing import trace
from vibfx.training.checkpoint import Checkpoint
from vibfx.training.engine import AUTOMATIC, Hardware, choose_device
from vibfx.training.logs import JsonLines, TensorBoard, to_all
from vibfx.training.loop import accuracy
from vibfx.training.meter import OnProgress
from vibfx.training.phases import default_epochs, fine_tune, train
from vibfx.training.ranks import costs_on_all, current

_log = logging.getLogger(__name__)

# How the names of folders begin in which a result is put together.
_ASIDE = ".vibfx-"

# Share of the epochs that the gates get; the rest is for the fine-tune.
_GATED_SHARE = 0.8


@dataclass(frozen=True)
class Compression:
    """What came out.

    Attributes:
        module: The compressed network: a graph without gates, ready to train, run or export.
        plan: What was removed.
        report: The numbers.
    """

    module: fx.GraphModule
    plan: PruningPlan
    report: Report


def compress(
    model: nn.Module,
    data: Data,
    *,
    target: str | None = "flops=0.5",
    out: str | Path | None = None,
    gamma: float | None = None,
    epochs: int | None = None,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    norms: Norms = "exact",
    resume: bool = False,
    tensorboard: bool = False,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Compression:
    """Make a trained classifier smaller, prove the result right, and export it.

    Started by ``torchrun`` (``torch.distributed`` initialised), all processes train together and
    return the same; the first one alone writes files.

    Trace, analyse, insert gates, train them until the target is met, remove the shut channels,
    check the rewrite in float64, fine-tune, export to ONNX, compare with ONNX Runtime.

    Args:
        model: A trained classifier. It is not changed.
        data: What to train and to measure on; see ``load_data``.
        target: What may be left, such as ``"flops=0.5"``; None to let ``gamma`` decide.
        out: A folder for ``model.onnx``, ``model.pt2``, ``plan.json`` and ``report.json``, and for
            ``log.jsonl``, to which every stage and every report adds a line. The four are
            written aside and moved there at the end, so a run that fails leaves nothing.
        gamma: One fixed weight for all gates instead of a controller.
        epochs: In all; 80 % with gates, the rest for the fine-tune. By default some 6,250 steps.
        lr: The weights' learning rate.
        hardware: What to train on, and how.
        seed: Of everything random in training.
        norms: Whether channels may go from under norms and means that run across them; see
            ``analyze``.
        resume: Go on with the run of which ``out`` holds the checkpoint, to the result that it
            would have had. Without a checkpoint it starts from the beginning.
        tensorboard: Whether to write TensorBoard's events into ``out/tensorboard`` as well.
        name: What the report calls the model; by default its class.
        on_progress: Called about twice a second during training.
        on_stage: Called with a few words when a stage begins.

    Returns:
        The compressed graph, the plan and the report.

    Raises:
        TraceError: The model cannot be captured.
        NothingRemovableError: No channel can be removed, or none was.
        TargetError: The target cannot be read or reached.
        DataError: The data does not fit the model.
        OutputError: The folder cannot be written.
        CheckpointError: ``out`` holds the checkpoint of a run that is not to be resumed, or of
            another one.
        EquivalenceError: The rewrite is wrong. Nothing is written.
        ParityError: ONNX Runtime disagrees. Nothing is written.
    """
    start = time.monotonic()
    ranks = current()
    place = choose_device(hardware.device)
    budgets = parse_target(target) if target else ()
    decisive = {"target": target, "gamma": gamma, "epochs": epochs, "lr": lr, "seed": seed}
    with _staging(out if ranks.is_first else None) as folder:
        stages, reports = [on_stage or _log.info], [on_progress] if on_progress else []
        if out is not None and ranks.is_first:
            log = JsonLines(Path(out) / "log.jsonl", resume=resume)
            stages.append(log.stage)
            reports.append(log.progress)
            if tensorboard:
                reports.append(TensorBoard(Path(out) / "tensorboard").progress)
        stage, on_progress = to_all(*stages), to_all(*reports)
        stage("tracing the model")
        graph = trace(model, _example(data))
        checkpoints = _checkpoints(out, graph, data, decisive | {"norms": norms}, resume=resume)
        _check_classes(graph, data)
        coupling = analyze(graph, norms=norms)
        gated = InsertGates(coupling)(graph).graph_module
        if any(budget.kind == "latency" for budget in budgets):
            stage("measuring the runtime on this machine")
        check_reachable(budgets, coupling, costs_on_all(graph, coupling))
        stage("measuring the original")
        accuracy_before = accuracy(graph, data.test, place)
        original = export_onnx(graph, folder / "original.onnx")

        stage("training the gates")
        gated_epochs, tuning_epochs = _split(epochs, data)
        trained = train(
            gated,
            data.train,
            target=budgets,
            gamma=gamma,
            epochs=gated_epochs,
            lr=lr,
            hardware=hardware,
            seed=seed,
            on_progress=on_progress,
            checkpoint=checkpoints.get("gates"),
        )
        stage("removing the shut channels")
        found = plan(gated)
        if not found.removed_units:
            if not trained.interrupted:
                _remove(checkpoints)
            raise _nothing_shut(trained.interrupted)
        small, error = _rewrite(gated, found)
        accuracy_cut = accuracy(small, data.test, place)
        tuned = trained
        if not trained.interrupted and tuning_epochs:
            stage("fine-tuning")
            tuned = fine_tune(
                small,
                data.train,
                epochs=tuning_epochs,
                lr=lr,
                hardware=hardware,
                seed=seed,
                on_progress=on_progress,
                checkpoint=checkpoints.get("fine-tune"),
            )
        if not ranks.is_first:
            return Compression(small, found, ranks.share(None))  # type: ignore[arg-type]
        stage("exporting and checking")
        exported = export_onnx(small, folder / "model.onnx")
        before_ms, after_ms = latencies([original.path, exported.path], small)
        before, after = measure(graph), measure(small)
        report = Report(
            model=name or type(model).__name__,
            data=data.name,
            target=target or f"gamma={gamma:g}",
            seed=seed,
            before=side(before, original, accuracy_before, before_ms),
            after=side(after, exported, accuracy(small, data.test, place), after_ms),
            accuracy_before_fine_tune=accuracy_cut,
            shares=shares(before, after),
            layers=layer_changes(before, after),
            units=coupling.units,
            units_left=coupling.units - found.removed_units,
            equivalence_error=error,
            parity=exported.difference,
            interrupted=trained.interrupted or tuned.interrupted,
            seconds=time.monotonic() - start,
            versions=versions(),
        )
        if out is not None:
            _publish(folder, Path(out), small, found, report)
    if not report.interrupted:
        _remove(checkpoints)
    return Compression(small, found, ranks.share(report))


def _checkpoints(
    out: str | Path | None,
    graph: fx.GraphModule,
    data: Data,
    options: Mapping[str, object],
    *,
    resume: bool,
) -> dict[str, Checkpoint]:
    """One for each phase of training, in the output folder."""
    if out is None:
        return {}
    run = {option: str(value) for option, value in options.items()}
    run |= {"model": digest(graph), "data": data.name, "torch": torch.__version__}
    run["batches an epoch"] = str(len(data.train))
    folder = Path(out) / "checkpoint"
    found = {name: Checkpoint(folder / f"{name}.pt", run) for name in ("gates", "fine-tune")}
    if not resume and any(checkpoint.exists() for checkpoint in found.values()):
        raise CheckpointError(
            "there is the checkpoint of an unfinished run",
            where=str(folder),
            hint="Go on with it by --resume, or delete it to start anew.",
        )
    return found


def _remove(checkpoints: Mapping[str, Checkpoint]) -> None:
    for checkpoint in checkpoints.values():
        checkpoint.remove()


def _example(data: Data) -> Tensor:
    x, _ = next(iter(data.train))
    return x[:2]


def _check_classes(graph: fx.GraphModule, data: Data) -> None:
    (output,) = graph.graph.find_nodes(op="output")
    shapes = [shape_of(node) for node in output.all_input_nodes]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise DataError(
            f"the model returns {' and '.join(map(str, shapes))} for two examples",
            hint="A classifier that returns one row of scores an example can be compressed.",
        )
    if shapes[0][1] < len(data.classes):
        raise DataError(
            f"the model tells {shapes[0][1]} classes apart, the data has {len(data.classes)}",
            where=data.name,
        )


def _split(epochs: int | None, data: Data) -> tuple[int, int]:
    total = epochs or round(default_epochs(data.train) / _GATED_SHARE)
    tuning = min(max(1, round(total * (1 - _GATED_SHARE))), total - 1)
    return total - tuning, tuning


def _rewrite(gated: fx.GraphModule, found: PruningPlan) -> tuple[fx.GraphModule, float]:
    """Cut the graph and fold what is left of the gates, in float64 so that it can be proved."""
    exact = to_dtype(copy_graph_module(gated), torch.float64)
    small = FoldGates()(PruneChannels(found)(exact).graph_module).graph_module
    error = verify(gated, small).error
    to_dtype(small, torch.float32)
    refresh_shapes(small)
    return small, error


def _nothing_shut(interrupted: bool) -> NothingRemovableError:
    if interrupted:
        return NothingRemovableError(
            "training was stopped before any gate was shut", hint="Go on with it by --resume."
        )
    return NothingRemovableError(
        "training ended with every gate open, so nothing would be removed",
        hint="Raise --gamma or --epochs, or state a --target.",
    )


@contextlib.contextmanager
def _staging(out: str | Path | None) -> Iterator[Path]:
    """A folder to work in: inside the output folder, so that files can be moved, or a temporary."""
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


def _publish(
    folder: Path, out: Path, small: fx.GraphModule, found: PruningPlan, report: Report
) -> None:
    """Write the rest aside as well, then move all files into place."""
    save_program(small, folder / "model.pt2")
    found.save(folder / "plan.json")
    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    for file in ("model.onnx", "model.pt2", "plan.json", "report.json"):
        (folder / file).replace(out / file)
