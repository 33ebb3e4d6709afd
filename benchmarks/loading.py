"""What it costs that a model file is looked at before it is read, on 500 MB of each format.

    cd benchmarks && python loading.py

The bare call of the library and ``load_model`` take turns. Wall time depends on a second core,
where there is one, since checksums are compared beside the reading; processor time does not. The
checksums are timed once more alone: torch compares none, so that they are not what its call does.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from facts import facts
from safetensors.torch import load_file, save_file
from torch import nn

from vibfx.model_files import load_model
from vibfx.model_files.archive import Archive

WIDTH = 2048
ARCH = "loading:network"


def network(layers: int = 30) -> nn.Module:
    """So many linear layers of 16.8 MB each, without random numbers in them."""
    made = (nn.utils.skip_init(nn.Linear, WIDTH, WIDTH) for _ in range(layers))
    return nn.Sequential(*made).eval()


def with_weights(weights: Any, layers: int) -> nn.Module:
    """The network with these weights."""
    model = network(layers)
    model.load_state_dict(weights)
    return model


def write(folder: Path, layers: int) -> dict[str, Path]:
    """The network in a file of every format."""
    torch.manual_seed(0)
    model = network(layers)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.05, 0.05)
    weights = model.state_dict()
    names = ("module.pt", "weights.pt", "legacy.th", "weights.safetensors", "program.pt2")
    module, plain, legacy, tensors, program = (folder / name for name in names)
    torch.save(model, module)
    torch.save(weights, plain)
    torch.save(weights, legacy, _use_new_zipfile_serialization=False)
    save_file(weights, tensors)
    torch.export.save(torch.export.export(model, (torch.zeros(2, WIDTH),)), program)
    return {path.name: path for path in (module, plain, legacy, tensors, program)}


def readers(files: dict[str, Path], layers: int) -> dict[str, Callable[[], object]]:
    """What each library's own call would be."""
    return {
        "module.pt": lambda: torch.load(files["module.pt"], weights_only=False),
        "weights.pt": lambda: with_weights(torch.load(files["weights.pt"]), layers),
        "legacy.th": lambda: with_weights(torch.load(files["legacy.th"]), layers),
        "weights.safetensors": lambda: with_weights(
            load_file(files["weights.safetensors"]), layers
        ),
        "program.pt2": lambda: torch.export.load(files["program.pt2"]).module(check_guards=False),
    }


def screened(path: Path, layers: int) -> nn.Module:
    """The same, by vibfx."""
    is_weights = path.name.startswith(("weights", "legacy"))
    return load_model(path, arch=f"{ARCH}(layers={layers})" if is_weights else None)


def checksums(path: Path) -> None:
    """Those of an archive, alone."""
    with path.open("rb") as file, Archive.of(file).checksums():
        pass


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    times = time.perf_counter() - wall, time.process_time() - processor
    del result
    return times


def compare(bare: Callable[[], object], path: Path, layers: int, rounds: int) -> dict[str, float]:
    """Medians in seconds over rounds in which all take turns; the first is a warm-up."""
    calls = {"bare": bare, "vibfx": lambda: screened(path, layers)}
    if path.suffix in (".pt", ".pt2"):
        calls["checksums"] = lambda: checksums(path)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            times[name].append(timed(call))
    found = {}
    for name, taken in times.items():
        walls, processors = zip(*taken[1:], strict=True)
        found[f"{name} wall"] = statistics.median(walls)
        found[f"{name} processor"] = statistics.median(processors)
    return found


def main() -> None:
    """One table row a format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30, help="Of 16.8 MB each.")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name, value in facts("python loading.py", ("torch", "safetensors")).items():
        print(f"{name}: {value}")
    print(
        "\n| File | MB | bare: wall s | processor s | vibfx: wall s | processor s "
        "| checksums: processor s | the rest of it costs |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), options.layers)
        for name, bare in readers(files, options.layers).items():
            found = compare(bare, files[name], options.layers, options.rounds)
            checks = found.get("checksums processor", 0.0)
            rest = found["vibfx processor"] - checks - found["bare processor"]
            print(
                f"| {name} | {files[name].stat().st_size / 1e6:.0f} | {found['bare wall']:.3f} "
                f"| {found['bare processor']:.3f} | {found['vibfx wall']:.3f} "
                f"| {found['vibfx processor']:.3f} | {checks:.3f} "
                f"| {rest / found['bare processor']:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
