"""What it costs that a model file is looked at before it is read, on 500 MB of each format.

    cd benchmarks && python loading.py

The bare call of the library and ``load_model`` take turns. What looks at a file is timed inside
``load_model``, since it is less than reading varies from one time to the next. Checksums are
compared beside the reading, on a second core where there is one; torch compares none.
"""

import argparse
import functools
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from facts import facts
from safetensors.torch import load_file, save_file
from torch import nn

from vibfx.model_files import exported_programs, legacy, load_model, loading

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


class Stopwatch:
    """Adds up the wall time within functions of modules, one inside another counted once."""

    def __init__(self, functions: Mapping[ModuleType, Sequence[str]]) -> None:
        self.seconds = 0.0
        self._inside = False
        for module, names in functions.items():
            for name in names:
                setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._inside = False

        return call


SCREENS = {
    loading: ("kind_of", "allowed_globals", "check_module"),
    legacy: ("_check",),
    exported_programs: (
        *("_check_records", "_json", "check_program", "_check_weights", "_check_inputs"),
    ),
}


def timed(call: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    gc.collect()
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


def compare(
    bare: Callable[[], object], path: Path, layers: int, rounds: int, screens: Stopwatch
) -> tuple[float, float, float]:
    """Median seconds of both in turns, and of the screens; the first round is a warm-up."""
    found = []
    for _ in range(rounds + 1):
        alone, screens.seconds = timed(bare), 0.0
        found.append((alone, timed(lambda: screened(path, layers)), screens.seconds))
    alone, ours, within = map(statistics.median, zip(*found[1:], strict=True))
    return alone, ours, within


def main() -> None:
    """One table row a format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30, help="Of 16.8 MB each.")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name, value in facts("python loading.py", ("torch", "safetensors")).items():
        print(f"{name}: {value}")
    print("\n| File | MB | bare s | vibfx s | screens s | of the bare call |")
    print("|---|--:|--:|--:|--:|--:|")
    screens = Stopwatch(SCREENS)
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), options.layers)
        for name, bare in readers(files, options.layers).items():
            size = files[name].stat().st_size / 1e6
            alone, ours, within = compare(
                bare, files[name], options.layers, options.rounds, screens
            )
            print(
                f"| {name} | {size:.0f} | {alone:.3f} | {ours:.3f} | {within:.4f} "
                f"| {100 * within / alone:.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
