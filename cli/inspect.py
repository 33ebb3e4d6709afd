"""``vibfx inspect``: what can be removed from a model, what stays, and why."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import fx, nn

from vibfx.cli.inspection_tables import show_frozen, show_inspection
from vibfx.cli.onnx_tables import show_description
from vibfx.cli.options import (
    Arch,
    GateInputs,
    InputShapes,
    Norms,
    Trust,
    example,
    title,
)
from vibfx.coupling import analyze
from vibfx.dot import to_dot
from vibfx.errors import InputError, OutputError
from vibfx.export.description import describe
from vibfx.inputs import call_arguments, random_inputs, tensor_inputs
from vibfx.inspection import Inspection
from vibfx.inspection import inspect as summarize
from vibfx.model_files import load_model
from vibfx.passes.insert_gates import nothing_removable
from vibfx.passes.select_inputs import with_selected_inputs
from vibfx.svg import to_svg
from vibfx.tracing import trace


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A file: a module by torch.save(model, FILE); a program by torch.export.save; "
            "weights, with --arch; or ONNX. Or torchvision:NAME@WEIGHTS or timm:NAME, to be "
            "downloaded."
        ),
    ],
    arch: Arch = None,
    input_shape: InputShapes = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
    dot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the coupling for Graphviz.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the coupling as a picture.")
    ] = None,
    norms: Norms = "exact",
    gate_inputs: GateInputs = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Print long lists in full, not only what is largest.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Show which channels of a model can be removed, which go together, and what stays and why.

    Trains nothing and needs no data. The exit code is 3 if nothing can be removed. Of an ONNX file:
    what it takes and returns, what it consists of, and where it comes from.
    """
    if Path(model).suffix == ".onnx":
        _show_onnx(Path(model), as_json=as_json)
        return
    examples = [example(text) for text in input_shape or ()]
    console, errors = Console(), Console(stderr=True)
    network = load_model(model, trust=trust or (), arch=arch)
    args, kwargs = (examples, {}) if examples else _known_arguments(network)
    with errors.status("tracing the model"):
        graph = trace(network, args, kwargs)
        graph = with_selected_inputs(graph) if gate_inputs else graph
        coupling = analyze(graph, norms=norms)
        found = summarize(graph, coupling)
    _write(dot, to_dot, found)
    _write(svg, to_svg, found)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    if not found.groups:
        if not as_json:
            show_frozen(found, errors, everything=everything)
        raise nothing_removable(coupling)
    if not as_json:
        show_inspection(found, console, name=title(model), everything=everything)
        _say_written((dot, svg), console)


def _show_onnx(path: Path, *, as_json: bool) -> None:
    found = describe(path)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        show_description(found, Console(), name=path.name)


def _known_arguments(network: nn.Module) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What a program was exported with."""
    if not isinstance(network, fx.GraphModule) or not tensor_inputs(network):
        raise InputError(
            "the model file does not say what shape of input the model takes",
            hint="Pass the shape of one example, such as --input 3x224x224.",
        )
    generator = torch.Generator().manual_seed(0)
    return call_arguments(network, random_inputs(network, 2, generator))


def _write(path: Path | None, draw: Callable[[Inspection], str], found: Inspection) -> None:
    if path is None:
        return
    try:
        path.write_text(draw(found), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the picture cannot be written: {error.strerror}", where=str(path)
        ) from error


def _say_written(paths: tuple[Path | None, ...], console: Console) -> None:
    for path in paths:
        if path is not None:
            console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
