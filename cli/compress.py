"""``vibfx compress``: from a model file to a verified, smaller ONNX file."""

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from vibfx.cli.live import LiveProgress
from vibfx.cli.options import (
    Arch,
    GateInputs,
    Mean,
    Norms,
    Std,
    Trust,
    numbers,
    sizes,
    stem,
    title,
)
from vibfx.cli.tables import show_report
from vibfx.compression import compress as run
from vibfx.data import load_data
from vibfx.delivery import Precision
from vibfx.errors import InputError
from vibfx.importing import import_function
from vibfx.model_files import load_model
from vibfx.training.engine import Hardware
from vibfx.training.engine import Precision as TrainingPrecision
from vibfx.training.ranks import joined


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="A file: a module by torch.save(model, FILE); a program by torch.export.save; or "
            "weights, with --arch. Or torchvision:NAME@WEIGHTS or timm:NAME, to be downloaded."
        ),
    ],
    arch: Arch = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits; mnist:DIR, fashion-mnist:DIR, cifar10:DIR or cifar100:DIR; a folder of "
            "images with train/ and val/, or of images without labels; a FILE.npz with x_train "
            "y_train x_test y_test; or package.module:function that returns loaders.  [default: "
            "inputs made from the model itself, which teach less]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the result: model.onnx, what vibfx.load reads, plan.json, report.json "
            "and the SHA-256 of each.  [default: the model's name with -small behind it]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What may be left: flops=SHARE, params=SHARE, latency=SHARE (in ONNX Runtime on "
            "this machine) or several, joined by commas.  "
            "[default: flops=0.5, unless --max-drop or --gamma says what is aimed at]",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="On the labels: cross-entropy, bce, mse, or package.module:function of outputs "
            "and labels.  [default: cross-entropy where labels are classes]",
            show_default=False,
        ),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the data term that wants the original's outputs.  "
            "[default: 0, or 1 where there are no labels]",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Instead of a target: how many points of accuracy on the validation split may be "
            "lost; the network becomes as small as that allows.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs in all, at most 80 % of them with gates.  [default: some 6,250 steps]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of everything random in training.")
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cpu or cuda:1.  [default: cuda if there is one]"),
    ] = None,
    precision: Annotated[
        TrainingPrecision,
        typer.Option(help="Of matrix products in training; auto is the fastest the device has."),
    ] = "auto",
    channels_last: Annotated[
        bool | None,
        typer.Option(
            help="Keep an image's channels together in memory.  [default: where it works]",
            show_default=False,
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Train with torch.compile.  [default: on cuda]",
            show_default=False,
        ),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Run a batch in pieces of at most so many examples: takes less memory.",
            show_default=False,
        ),
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Compute activations again instead of keeping them: takes less memory, more time.",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=2, help="Examples a step.")] = 128,
    lr: Annotated[
        float, typer.Option(help="The weights' learning rate; the gates' is 30 times as high.")
    ] = 1e-3,
    gamma: Annotated[
        float | None,
        typer.Option(
            help="Instead of a target: one fixed weight for all gates, which then decide alone."
        ),
    ] = None,
    weights: Annotated[
        Literal["cost", "uniform"] | None,
        typer.Option(
            help="What the gates weigh beside each other: what a channel costs, or all alike.  "
            "[default: cost, or uniform if --gamma is given]",
            show_default=False,
        ),
    ] = None,
    settle: Annotated[
        bool | None,
        typer.Option(
            help="Train on with the gates' noise for a while when the target is met, before the "
            "fine-tune without it.  [default: where the network overfits]",
            show_default=False,
        ),
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Channels in a step of a layer's width; 1 allows any width.  [default: what ONNX "
            "Runtime computes at once on this machine; 1 with --gamma]",
            show_default=False,
        ),
    ] = None,
    norms: Norms = "exact",
    gate_inputs: GateInputs = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Write model.int8.onnx as well: quantized by the validation split."
        ),
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Write model.fp16.onnx as well, half the size.")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run that was stopped while writing to --out.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard into --out.")
    ] = False,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="Shape of one example, such as 3x224x224."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Shift images in training, crop and mirror colour ones; by default colour ones.",
        ),
    ] = None,
    download: Annotated[bool, typer.Option(help="Download the data set if it is missing.")] = False,
    trust: Trust = None,
) -> None:
    """Compress a trained model and export it as verified ONNX."""
    if not all(0.0 < number < math.inf for number in (lr, gamma) if number is not None):
        raise InputError("--lr and --gamma are numbers above 0")
    network = load_model(model, trust=trust or (), arch=arch)
    shape = None if input_shape is None else sizes(input_shape)
    out = out or Path(f"{stem(model)}-small")
    loaded = None
    if data is not None:
        loaded = load_data(
            data,
            batch_size=batch_size,
            seed=seed,
            download=download,
            augment=augment,
            input_shape=shape,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
        )
    asked: dict[Precision, bool] = {"int8": int8, "fp16": fp16}
    precisions = [name for name, wanted in asked.items() if wanted]
    with joined() as ranks, LiveProgress(Console(quiet=not ranks.is_first)) as live:
        result = run(
            network,
            loaded,
            input_shape=shape,
            target=target,
            max_drop=max_drop,
            out=out,
            loss=import_function(loss) if loss and ":" in loss else loss,  # type: ignore[arg-type]
            distill=distill,
            gamma=gamma,
            weights=weights,
            settle=settle,
            round_to=round_to,
            epochs=epochs,
            lr=lr,
            hardware=Hardware(device, precision, channels_last, compiled, micro_batch, recompute),
            seed=seed,
            norms=norms,
            gate_inputs=gate_inputs,
            precisions=precisions,
            resume=resume,
            tensorboard=tensorboard,
            name=title(model),
            command=shlex.join(["vibfx", *sys.argv[1:]]),
            on_progress=live.progress,
            on_stage=live.stage,
        )
    if ranks.is_first:
        show_report(result.report, out, Console())
