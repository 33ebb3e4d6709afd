"""Three networks on MNIST, each trained, saved and compressed as a user would do it.

    make bench VIBFX_DATA=DIR        (or: python benchmarks/mnist.py mnist:DIR)

Prints a Markdown table; about a quarter of an hour on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Network, target, epochs of the compression.
RUNS = (
    ("residual", "flops=0.5", 8),
    ("residual-projection", "flops=0.5", 8),
    ("lenet5", "flops=0.12,params=0.025", 14),
)

HEAD = """\
| Network | Target | r_W % | FLOPs | r_N % | Test error % before, after | \
ONNX Runtime ms before, after | Seconds |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Run all, one after the other, and print a row of the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(HEAD, flush=True)
    for name, target, epochs in RUNS:
        print(compress(name, target, epochs, options.data, options.seed), flush=True)


def compress(name: str, target: str, epochs: int, data: str, seed: int) -> str:
    """Train, save, compress in processes of their own; one row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / f"{name}.pt", Path(folder) / "out"
        run("train_mnist.py", name, data, str(file), "--seed", str(seed))
        run(
            *("-m", "vibfx", "compress", str(file), "--data", data, "--target", target),
            *("--epochs", str(epochs), "--seed", str(seed), "--out", str(out)),
            *("--trust", "mnist_networks"),
        )
        report = json.loads((out / "report.json").read_text())
    before, after, shares = report["before"], report["after"], report["shares"]
    return (
        f"| {name} | {target} | {100 * shares['r_w']:.2f} | {after['flops']:,.0f} "
        f"({100 * shares['flops']:.1f} %) | {100 * shares['r_n']:.2f} | "
        f"{_error(before):.2f}, {_error(after):.2f} | "
        f"{before['latency_ms']:.3f}, {after['latency_ms']:.3f} | {report['seconds']:.0f} |"
    )


def _error(side: dict[str, Any]) -> float:
    """Of a report's side, in percent."""
    return 100 * (1 - side["score"]["accuracy"])


def run(*arguments: str) -> None:
    """Run Python in the examples' folder, its output going to standard error."""
    # Their folder on the path makes the residual networks' classes importable.
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLES, env=environment, check=True, stdout=sys.stderr
    )


if __name__ == "__main__":
    main()
