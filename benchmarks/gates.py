"""What gates cost a training step: the same network with and without them, taking turns.

    cd benchmarks && python gates.py [--compile]

ResNet-18 on 64 images of 32 x 32, one thread; the median of the steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from facts import facts
from torch import fx
from torch.nn import functional as F

import vibfx
from vibfx.passes import InsertGates, SetMode
from vibfx.training import Hardware
from vibfx.training.engine import Engine

BATCH, SIDE, STEPS, WARM_UP = 64, 32, 40, 5


def main() -> None:
    """One table row a precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="run both by torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, value in facts("python gates.py", ("vibfx", "torch", "torchvision")).items():
        print(f"{name}: {value}")
    print("\n| Precision | Plain ms | Gated ms | Gated / plain |\n|---|--:|--:|--:|")
    for precision in ("float32", "auto"):
        hardware = Hardware("cpu", precision, compiled=options.compile)
        plain, gated = (step(graph, hardware) for graph in (network(), with_gates(network())))
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(WARM_UP + STEPS):
            for run, seconds in zip((plain, gated), times, strict=True):
                start = time.perf_counter()
                run()
                if number >= WARM_UP:
                    seconds.append(time.perf_counter() - start)
        a, b = (1000 * statistics.median(seconds) for seconds in times)
        print(f"| {precision} | {a:.1f} | {b:.1f} | {b / a:.3f} |", flush=True)


def network() -> fx.GraphModule:
    """ResNet-18 of ten classes, traced."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    return vibfx.trace(model, torch.randn(2, 3, SIDE, SIDE))


def with_gates(graph: fx.GraphModule) -> fx.GraphModule:
    """The same with all its gates."""
    return InsertGates(vibfx.analyze(graph))(graph).graph_module


def step(graph: fx.GraphModule, hardware: Hardware) -> Callable[[], None]:
    """A step of the optimizer on one batch; where there are gates, with their part of the loss."""
    SetMode(training=True)(graph)
    engine = Engine(graph, hardware)
    optimizer = torch.optim.Adam(graph.parameters(), lr=1e-3, fused=True)
    x = engine.place(torch.randn(BATCH, 3, SIDE, SIDE))
    labels = torch.randint(0, 10, (BATCH,))

    def run() -> None:
        loss = F.cross_entropy(engine(x).float(), labels)
        engine.step(loss + vibfx.information(graph, 1e-4), optimizer)

    return run


if __name__ == "__main__":
    main()
