"""``vibfx demo``: the whole way on real digits, nothing to download."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from vibfx.cli.compress import compress
from vibfx.data import Loader, load_data
from vibfx.errors import OutputError

_EPOCHS = 10
_COMPRESS_EPOCHS = 32
_BATCH_SIZE = 32
_TARGET = "flops=0.25"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "vibfx-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")] = 0,
) -> None:
    """Train a small network on 1,797 scanned digits, save it, and compress the file."""
    console = Console()
    file = out / "digits.pt"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with console.status(f"training a network on scanned digits, {_EPOCHS} epochs"):
            torch.save(_trained(seed), file)
    except OSError as error:
        raise OutputError(
            f"the output folder cannot be written: {error.strerror}", where=str(out)
        ) from error
    console.print(
        f"$ vibfx compress {file} --data digits --target {_TARGET} --out {out} "
        f"--batch-size {_BATCH_SIZE} --epochs {_COMPRESS_EPOCHS} --seed {seed}",
        style="bold",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    compress(
        str(file),
        data="digits",
        target=_TARGET,
        out=out,
        batch_size=_BATCH_SIZE,
        epochs=_COMPRESS_EPOCHS,
        seed=seed,
    )


def _trained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *_block(1, 64),
        *_block(64, 128),
        nn.MaxPool2d(2),
        *_block(128, 192),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(768, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    loader: Loader = load_data("digits", batch_size=_BATCH_SIZE, seed=seed).train
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS * len(loader))
    for _ in range(_EPOCHS):
        for x, labels in loader:
            loss = F.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]
