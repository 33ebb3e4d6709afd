"""Three networks on MNIST, each trained, saved and compressed as a user would do it.

    make bench VIBFX_DATA=DIR        (or: python benchmarks/mnist.py mnist:DIR)

Prints a Markdown table; about half an hour on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

RUNS = (
    ("lenet5", "flops=0.12,params=0.025"),
    ("residual", "flops=0.5"),
    ("residual-projection", "flops=0.5"),
)


def main() -> None:
    """Run all, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[name for name, _ in RUNS])
    options = parser.parse_args()
    rows = [
        compress(name, target, options.data, options.seed)
        for name, target in RUNS
        if options.only in (None, name)
    ]
    print(
        "| Network | Target | r_W % | FLOPs | r_N % | Test error % before, after | "
        "ONNX Runtime ms before, after | Seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def compress(name: str, target: str, data: str, seed: int) -> str:
    """Train, save, compress in processes of their own; one row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / f"{name}.pt", Path(folder) / "out"
        run("train_mnist.py", name, data, str(file), "--seed", str(seed))
        run(
            "-m",
            "vibfx",
            "compress",
            str(file),
            "--data",
            data,
            "--target",
            target,
            "--out",
            str(out),
            "--seed",
            str(seed),
            "--trust",
            "mnist_networks",
        )
        report = json.loads((out / "report.json").read_text())
    before, after, shares = report["before"], report["after"], report["shares"]
    return (
        f"| {name} | {target} | {100 * shares['r_w']:.2f} | {after['flops']:,.0f} "
        f"({100 * shares['flops']:.1f} %) | {100 * shares['r_n']:.2f} | "
        f"{100 * (1 - before['accuracy']):.2f}, {100 * (1 - after['accuracy']):.2f} | "
        f"{before['latency_ms']:.3f}, {after['latency_ms']:.3f} | {report['seconds']:.0f} |"
    )


def run(*arguments: str) -> None:
    """Run Python in the examples' folder, its output going to standard error."""
    # Their folder on the path makes the residual networks' classes importable.
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    subprocess.run(
        [sys.executable, *arguments], cwd=EXAMPLES, env=environment, check=True, stdout=sys.stderr
    )


if __name__ == "__main__":
    main()
