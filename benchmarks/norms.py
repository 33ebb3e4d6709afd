"""What it is worth to let channels go from under norms that run across them.

    cd benchmarks && python norms.py

A random half of every group's units goes, once with the norms left alone, so that the width of the
residual stream stays, and once with the norms rewritten with their original denominator. Times are
of ONNX Runtime on one thread, the files taking turns.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from facts import facts
from torch import fx

import vibfx
from vibfx.export import latencies
from vibfx.metrics import shares
from vibfx.passes import PruneChannels
from vibfx.planning import plan_units

MODELS = ("vit_b_16", "swin_t", "convnext_tiny")
SHARE = 0.5
SECONDS = 20.0


def main() -> None:
    """One table row a model."""
    for name, value in facts("python norms.py", ("torch", "onnxruntime", "torchvision")).items():
        print(f"{name}: {value}")
    print("\n| Model | | FLOPs | Parameters | ms | ms / original |\n|---|---|--:|--:|--:|--:|")
    for name in MODELS:
        compare(name)


def compare(name: str) -> None:
    """The network as it is, and half of it in two ways."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    graph = vibfx.trace(model, torch.randn(2, 3, 224, 224))
    variants = {
        "original": graph,
        "half, norms frozen": half(graph, "freeze"),
        "half, norms exact": half(graph, "exact"),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(variants))]
        for module, path in zip(variants.values(), paths, strict=True):
            vibfx.export_onnx(module, path)
        times = latencies(paths, graph, seconds=SECONDS)
    full = vibfx.measure(graph)
    for (variant, module), time in zip(variants.items(), times, strict=True):
        left = shares(full, vibfx.measure(module))
        print(
            f"| {name} | {variant} | {left.flops:.1%} | {left.params:.1%} "
            f"| {time:.1f} | {time / times[0]:.2f} |",
            flush=True,
        )


def half(graph: fx.GraphModule, norms: str) -> fx.GraphModule:
    """The graph without a random half of the units of every group."""
    found = vibfx.analyze(graph, norms=norms)  # type: ignore[arg-type]
    keep = np.ones(found.units, dtype=bool)
    generator = np.random.default_rng(0)
    for group in found.groups:
        gone = generator.permutation(group.size)[: int(SHARE * group.size)]
        keep[group.start + gone] = False
    plan = plan_units(graph, found, keep)
    return PruneChannels(plan)(graph).graph_module


if __name__ == "__main__":
    main()
