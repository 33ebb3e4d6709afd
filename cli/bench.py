"""``vibfx bench``: ONNX files side by side."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vibfx.benching import bench as measure
from vibfx.cli.onnx_tables import show_benches
from vibfx.cli.options import Mean, Std, numbers, sizes
from vibfx.data import load_data
from vibfx.export.runtime import CPU


def bench(
    files: Annotated[list[Path], typer.Argument(help="ONNX files that take the same inputs.")],
    threads: Annotated[
        list[int], typer.Option(min=0, help="Threads an op; 0 is one a core. May be repeated.")
    ] = [1],  # noqa: B006  # typer reads it, nobody changes it
    batch: Annotated[list[int], typer.Option(min=1, help="Examples a run. May be repeated.")] = [1],  # noqa: B006
    provider: Annotated[str, typer.Option(help="What ONNX Runtime computes on.")] = CPU,
    input_shape: Annotated[
        str | None,
        typer.Option(
            "--input", help="Shape of one example, such as 3x224x224, where a file leaves it open."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="What to measure the accuracy on, as for vibfx compress."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="How long to measure a file each time, about.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the inputs.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Measure ONNX files in turns: milliseconds, size, memory, agreement and accuracy."""
    shape = None if input_shape is None else sizes(input_shape)
    loaded = None
    if data is not None:
        loaded = load_data(
            data,
            input_shape=shape,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
        )
    with Console(stderr=True).status("measuring"):
        found = measure(
            files,
            threads=threads,
            batches=batch,
            provider=provider,
            input_shape=shape,
            data=loaded,
            seconds=seconds,
            seed=seed,
        )
    if as_json:
        typer.echo(json.dumps([asdict(row) | {"path": str(row.path)} for row in found], indent=1))
    else:
        show_benches(found, Console())
