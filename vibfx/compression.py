"""The whole way in one call: from a trained model to a verified, compressed ONNX file."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import fx, nn

from vibfx.budgets import check_reachable, parse_target
from vibfx.components import Norms
from vibfx.copying import copy_graph_module
from vibfx.coupling import analyze
from vibfx.data import Data
from vibfx.delivery import Delivery, Precision
from vibfx.equivalence import verify
from vibfx.errors import NothingRemovableError, ParityError, TargetError, TargetMissedError
from vibfx.graph import digest, refresh_shapes, to_dtype
from vibfx.output_folder import checkpoints, publish, staging
from vibfx.passes.fold_gates import FoldGates
from vibfx.passes.insert_gates import InsertGates
from vibfx.passes.prune_channels import PruneChannels
from vibfx.passes.select_inputs import with_selected_inputs
from vibfx.planning import PruningPlan, plan
from vibfx.preparation import loss_on_labels, objective_of, traced
from vibfx.report import Report, versions
from vibfx.training.course import Course
from vibfx.training.engine import AUTOMATIC, Hardware, choose_device
from vibfx.training.evaluation import evaluate
from vibfx.training.logs import JsonLines, TensorBoard, to_all
from vibfx.training.meter import OnProgress
from vibfx.training.objectives import Loss, LossFunction
from vibfx.training.phases import DEFAULT_TARGET, default_epochs
from vibfx.training.ranks import costs_on_all, current
from vibfx.weighting import Weights

_log = logging.getLogger(__name__)

# Share of the epochs that the gates may take; the rest, at least, is for the fine-tune.
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
    data: Data | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    target: str | None = None,
    max_drop: float | None = None,
    out: str | Path | None = None,
    loss: Loss | LossFunction | None = None,
    distill: float | None = None,
    gamma: float | None = None,
    weights: Weights | None = None,
    settle: bool | None = None,
    round_to: int | None = None,
    epochs: int | None = None,
    lr: float = 1e-3,
    hardware: Hardware = AUTOMATIC,
    seed: int = 0,
    norms: Norms = "exact",
    gate_inputs: bool = False,
    precisions: Sequence[Precision] = (),
    resume: bool = False,
    tensorboard: bool = False,
    name: str | None = None,
    command: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Compression:
    """Make a trained model smaller, prove the result right, and export it.

    Started by ``torchrun`` (``torch.distributed`` initialised), all processes train together and
    return the same; the first one alone writes files.

    Trace, analyse, insert gates, train them until the target is met, remove the shut channels,
    check the rewrite in float64, fine-tune, export to ONNX, compare with ONNX Runtime. Of the
    weights before the fine-tune and after it, those stay that are better on the validation split;
    the test set is for the report alone.

    Args:
        model: A trained model. It is not changed.
        data: What to train and to measure on; see ``load_data``. Without data, inputs are made from
            the model itself, and what is wanted are its own outputs.
        input_shape: The shape of one example, for where there is no data and the model does not
            say it.
        target: What may be left, such as ``"flops=0.5"``, which it is by default.
        max_drop: In place of a target: how many points of accuracy on the validation split may be
            lost, for as small a network as that allows. Without classes, points of agreement with
            the original.
        out: A folder for the result (``model.onnx``; ``graph.json`` and ``model.safetensors`` for
            ``vibfx.load``; ``model.pt2``, ``plan.json``, ``report.json``, and ``manifest.json``
            with the SHA-256 of each), and for ``log.jsonl``, to which every stage and every report
            adds a line. The result is written aside and moved there at the end, so a run that fails
            leaves nothing.
        loss: The loss on the labels: ``"cross-entropy"``, ``"bce"``, ``"mse"``, or a function of
            the model's outputs and the labels. By default the cross-entropy where labels are
            classes; it has to be said where they are values.
        distill: The share of the data term that has the original model's outputs for what is
            wanted, from 0 to 1; by default all where there are no labels, else none. Each step then
            runs the original, too.
        gamma: In place of a target: one fixed weight for all gates, which then decide alone.
        weights: What the gates weigh beside each other; see ``Compressor``.
        settle: Whether the gates' noise stays for a while when the target is met, so that the
            network settles with it, before the fine-tune, which is without. By default it does
            where the network overfits; see ``Course``.
        round_to: How many channels widths are multiples of in the end, as far as the target can
            then be used up, and 1 for any width. By default what ONNX Runtime computes at once on
            this machine; see ``Compressor``.
        epochs: In all; at most 80 % with gates, the rest for the fine-tune. By default some 6,250
            steps.
        lr: The weights' learning rate.
        hardware: What to train on, and how.
        seed: Of everything random in training.
        norms: Whether channels may go from under norms and means that run across them; see
            ``analyze``.
        gate_inputs: Whether features of the input may go as well; see ``SelectInputs``. The input
            keeps its shape.
        precisions: What else the result is written in: ``"int8"`` as ``model.int8.onnx``,
            quantized by the validation split, ``"fp16"`` as ``model.fp16.onnx``.
        resume: Go on with the run of which ``out`` holds the checkpoint, to the result that it
            would have had. Without a checkpoint it starts from the beginning.
        tensorboard: Whether to write TensorBoard's events into ``out/tensorboard`` as well.
        name: What the report calls the model; by default its class.
        command: What the manifest says that the result was made by.
        on_progress: Called about twice a second during training.
        on_stage: Called with a few words when a stage begins.

    Returns:
        The compressed graph, the plan and the report.

    Raises:
        TraceError: The model cannot be captured.
        NothingRemovableError: No channel can be removed, or none was; or no input feature can be,
            with ``gate_inputs``.
        TargetError: The target cannot be read or reached, or there is more than one of ``target``,
            ``max_drop`` and ``gamma``.
        TargetMissedError: With ``max_drop``, the result has lost more in the end; it is written.
        DataError: The data does not fit the model, or the loss does not fit the data.
        InputError: The share to distill is none, or needs a loss; or there is no data, and nothing
            says what shape the input has.
        OutputError: The folder cannot be written.
        CheckpointError: ``out`` holds the checkpoint of a run that is not to be resumed, or of
            another one.
        EquivalenceError: The rewrite is wrong. Nothing is written.
        ParityError: ONNX Runtime disagrees, and nothing is written; or the result in another
            precision is too far from the one in float32, which is written.
    """
    start = time.monotonic()
    decisive: dict[str, object] = {"target": target, "loss": loss, "distill": distill}
    decisive |= {"max_drop": max_drop, "gamma": gamma, "weights": weights}
    decisive |= {"epochs": epochs, "lr": lr, "seed": seed, "norms": norms}
    decisive |= {"gate_inputs": gate_inputs, "settle": settle, "round_to": round_to}
    ranks = current()
    place = choose_device(hardware.device)
    if [bool(target), max_drop is not None, gamma is not None].count(True) > 1:
        raise TargetError(
            "there is more than one of a target, a largest drop and a gamma", hint="Pass one."
        )
    if target is None and max_drop is None and gamma is None:
        target = DEFAULT_TARGET
    budgets = parse_target(target) if target else ()
    with staging(out if ranks.is_first else None) as folder:
        stages, reports = [on_stage or _log.info], [on_progress] if on_progress else []
        if out is not None and ranks.is_first:
            log = JsonLines(Path(out) / "log.jsonl", resume=resume)
            stages.append(log.stage)
            reports.append(log.progress)
            if tensorboard:
                reports.append(TensorBoard(Path(out) / "tensorboard").progress)
        stage = to_all(*stages)
        stage("tracing the model")
        graph, data = traced(model, data, input_shape, seed, place, stage)
        on_labels = loss_on_labels(graph, data, loss)
        score = partial(evaluate, device=place, loss=on_labels, original=graph)
        course = Course(
            original=graph,
            data=data,
            objective=objective_of(graph, on_labels, distill),
            score=score,
            lr=lr,
            hardware=hardware,
            seed=seed,
            on_progress=to_all(*reports),
            on_stage=stage,
            checkpoints=checkpoints(out, _identity(graph, data, decisive), resume=resume),
        )
        selected = with_selected_inputs(graph) if gate_inputs else graph
        coupling = analyze(selected, norms=norms)
        gated = InsertGates(coupling)(selected).graph_module
        if any(budget.kind == "latency" for budget in budgets):
            stage("measuring the runtime on this machine")
        check_reachable(budgets, coupling, costs_on_all(selected, coupling))
        stage("measuring the original")
        name = name or type(model).__name__
        delivery = Delivery(model, graph, data, score, folder, name=name)

        gated_epochs, tuning_epochs = _split(epochs, data)
        spare = course.compress(
            gated,
            target=budgets,
            gamma=gamma,
            max_drop=max_drop,
            weights=weights,
            settle=settle,
            round_to=round_to,
            epochs=gated_epochs,
        )
        stage("removing the shut channels")
        found = plan(gated)
        if not found.removed_units:
            course.clean_up()
            raise _nothing_shut(course.interrupted)
        small, error = _rewrite(gated, found)
        delivery.check_sizes(gated, small)
        if not course.interrupted and tuning_epochs + spare:
            course.fine_tune(small, epochs=max(1, round(tuning_epochs + spare)))
        if not ranks.is_first:
            return Compression(small, found, ranks.share(None))  # type: ignore[arg-type]
        stage("exporting and checking")
        aim = target or (f"gamma={gamma:g}" if gamma else f"max-drop={max_drop:g}")
        delivered = delivery.finish(small, found, target=aim, precisions=precisions)
        report = Report(
            **vars(delivered),
            model=name,
            data=data.name,
            caution=data.caution,
            target=aim,
            seed=seed,
            phases=tuple(course.phases),
            units=coupling.units,
            units_left=coupling.units - found.removed_units,
            equivalence_error=error,
            interrupted=course.interrupted,
            seconds=time.monotonic() - start,
            versions=versions(),
        )
        if out is not None:
            publish(folder, Path(out), small, found, report, command)
    course.clean_up()
    report = ranks.share(report)
    if max_drop is not None and (lost := course.lost(small)) > max_drop:
        raise TargetMissedError(
            f"the result has lost {lost:.2f} points on the validation split, more than the "
            f"{max_drop:g} that were allowed",
            hint="It was written all the same. Train for more --epochs, or allow more.",
        )
    for variant in report.variants:
        if variant.problem:
            raise ParityError(
                f"{variant.file} was not written: {variant.problem}",
                hint="The result in float32 was.",
            )
    return Compression(small, found, report)


def _identity(
    graph: fx.GraphModule, data: Data, options: Mapping[str, object]
) -> Mapping[str, str]:
    """What the result depends on."""
    given = {name: getattr(value, "__qualname__", str(value)) for name, value in options.items()}
    own = {"model": digest(graph), "data": data.name, "torch": torch.__version__}
    return {**given, **own, "batches an epoch": str(len(data.train))}


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
