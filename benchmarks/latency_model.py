"""How well the latency that is predicted for a plan agrees with that of the ONNX file it leads to.

    cd benchmarks && python latency_model.py [--plans 8] [NAME ...]

Random shares of the units of every group go, in every other plan so that what is left are multiples
of 16. Each file takes turns with the original's, on one thread; what counts is the thread's own
time in the fastest runs, as whatever else the machine does only adds.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import torchvision
from facts import facts
from torch import nn

import vibfx
from vibfx.costs import CostModel
from vibfx.coupling import Coupling
from vibfx.passes import PruneChannels
from vibfx.planning import cover, plan_units

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from cifar_networks import ResNet20

NETWORKS = ("resnet18", "mobilenet_v2", "vgg16_bn", "resnet20")
MULTIPLE, SECONDS = 16, 4.0

Keep = npt.NDArray[np.bool_]


def main() -> None:
    """One table row a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="which ones")
    parser.add_argument("--plans", type=int, default=8, help="how many for each network")
    options = parser.parse_args()
    for name, value in facts("python latency_model.py", ("torch", "onnxruntime")).items():
        print(f"{name}: {value}")
    print("\n| Network | Measuring s | Prediction us | Error % mean | worst | Predicted/measured |")
    print("|---|--:|--:|--:|--:|---|")
    for name in options.networks:
        validate(name, options.plans)


def validate(name: str, plans: int) -> None:
    """Predict and measure a network without random halves."""
    torch.manual_seed(0)
    model, side = (ResNet20(), 32) if name == "resnet20" else (torchvision_model(name), 224)
    graph = vibfx.trace(model.eval(), torch.randn(2, 3, side, side))
    coupling = vibfx.analyze(graph)
    costs, everything = CostModel(graph, coupling), np.ones(coupling.units, dtype=bool)
    start = time.perf_counter()
    full = costs.cost("latency", everything)
    measuring = time.perf_counter() - start
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original.onnx"
        vibfx.export_onnx(graph, original)
        for keep in random_plans(coupling, plans):
            smaller = PruneChannels(plan_units(graph, coupling, keep))(graph).graph_module
            path = Path(folder) / "smaller.onnx"
            vibfx.export_onnx(smaller, path)
            before, after = fastest([original, path], (1, 3, side, side))
            pairs.append((costs.cost("latency", keep) / full, after / before))
    start = time.process_time()
    for _ in range(100):
        costs.cost("latency", keep)
    prediction = 1e4 * (time.process_time() - start)
    errors = [100 * abs(predicted / measured - 1) for predicted, measured in pairs]
    ratios = ", ".join(f"{predicted:.2f}/{measured:.2f}" for predicted, measured in pairs)
    print(
        f"| {name} | {measuring:.0f} | {prediction:.0f} | {np.mean(errors):.1f} "
        f"| {max(errors):.1f} | {ratios} |",
        flush=True,
    )


def torchvision_model(name: str) -> nn.Module:
    """With random weights."""
    found: nn.Module = torchvision.models.get_model(name, weights=None)
    return found


def random_plans(coupling: Coupling, count: int) -> Iterator[Keep]:
    """Units to keep: a share of its own of every group."""
    generator = np.random.default_rng(0)
    for number in range(count):
        keep = np.zeros(coupling.units, dtype=bool)
        for group in coupling.groups:
            left = max(round(generator.uniform(0.2, 1.0) * group.size), 1)
            if number % 2 and group.size > MULTIPLE:
                left = MULTIPLE * max(round(left / MULTIPLE), 1)
            keep[group.start + generator.permutation(group.size)[:left]] = True
        yield cover(coupling, keep)


def fastest(paths: list[Path], shape: tuple[int, ...]) -> list[float]:
    """Milliseconds of each file in its fastest eighth of the runs."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(str(p), settings, providers) for p in paths]
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times: list[list[float]] = [[] for _ in paths]
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times[0]) < 16:
        for session, taken in zip(sessions, times, strict=True):
            start = time.thread_time()
            session.run(None, {session.get_inputs()[0].name: x})
            taken.append(1000 * (time.thread_time() - start))
    return [float(np.mean(sorted(taken)[: len(taken) // 8])) for taken in times]


if __name__ == "__main__":
    main()
