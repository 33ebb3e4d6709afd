"""``vibfx apply``: a plan cuts a saved module, which stays what it is otherwise."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from vibfx.applying import applied
from vibfx.cli.options import Arch, InputShapes, Trust, example, stem
from vibfx.cli.plan_tables import show_applied
from vibfx.errors import OutputError
from vibfx.model_files import load_model
from vibfx.planning import PruningPlan


def apply(
    plan: Annotated[Path, typer.Argument(help="A plan.json that vibfx compress wrote.")],
    model: Annotated[
        str,
        typer.Argument(
            help="A module of that architecture, saved with torch.save(model, FILE); or weights of "
            "it, with --arch."
        ),
    ],
    arch: Arch = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the smaller module goes; MODEL-small.pt by default."
        ),
    ] = None,
    input_shape: InputShapes = None,
    trust: Trust = None,
) -> None:
    """Cut a module by a plan: the same class, with fewer channels.

    The weights are those of the model file, so that it has to be trained on. What comes out is
    proved to compute what the traced and cut graph does, or nothing is written.
    """
    target = Path(model).with_name(f"{stem(model)}-small.pt") if out is None else out
    _check_target(target, Path(model))
    chosen = PruningPlan.load(plan)
    network = load_model(model, trust=trust or (), arch=arch)
    with Console(stderr=True).status("cutting the model"):
        examples = [example(text) for text in input_shape] if input_shape else None
        result = applied(chosen, network, examples)
        _save(result.module, target)
    show_applied(result, target, Console())


def _check_target(target: Path, model: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if target.resolve() == model.resolve():
        raise OutputError(
            "the smaller model would replace the model itself",
            where=str(target),
            hint="Pass another file with --out.",
        )
    if target.is_dir() or not target.parent.is_dir():
        raise OutputError(
            "the smaller model cannot be written: that is a folder, or there is none for it",
            where=str(target),
            hint="Pass a file in a folder that exists with --out.",
        )


def _save(module: nn.Module, target: Path) -> None:
    """Write the module aside, then move it into place."""
    aside = target.with_name(f".{target.name}.part")
    try:
        torch.save(module, aside)
        aside.replace(target)
    except Exception as error:  # pickle raises many kinds
        raise OutputError(
            f"the smaller model cannot be written: {error}", where=str(target)
        ) from error
    finally:
        aside.unlink(missing_ok=True)
