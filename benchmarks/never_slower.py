"""Is any random cut slower than its original? Networks and targets drawn at random.

    cd benchmarks && python never_slower.py [--plans 40] [--seed 0] [--narrow 0.4]

Each plan is a network of torchvision and a side of its images or, two times in five, one of a few
narrow layers for small images; a budget of FLOPs or of parameters, a share from 20 to 95 %, and
random scores in place of trained gates; the landing of ``vibfx.compress`` cuts it. Original and cut
take turns in ONNX Runtime, on one thread, batch 1.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from facts import facts
from torch import nn
from widths import by_landing

import vibfx
from vibfx.costs import Cost
from vibfx.export import export_onnx, latencies

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import mnist_networks
from cifar_networks import ResNet20

NETWORKS = (
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50"),
    *("resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "vgg11_bn", "wide_resnet50_2"),
)
SIDES = (96, 160, 224)
NARROW = ("lenet5", "residual", "residual-projection", "resnet20", "vgg")
NOISE = 0.01  # by which two runs of the same file differ
HEAD = """\
| Network | Side | Target | FLOPs left % | ms before | after | Times as fast |
|---|--:|---|--:|--:|--:|--:|"""


def main() -> None:
    """A row for each plan, then how many were slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--narrow", type=float, default=0.4, help="the share of narrow networks")
    parser.add_argument("--seconds", type=float, default=10.0, help="to measure each pair for")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = np.random.default_rng(options.seed)
    print(HEAD, flush=True)
    faster = [one_plan(source, options.narrow, options.seconds) for _ in range(options.plans)]
    slower = sum(times < 1.0 - NOISE for times in faster)
    print(
        f"\n{slower} of {len(faster)} are slower by more than {100 * NOISE:.0f} %; the slowest is "
        f"{min(faster):.2f} times as fast, half are {np.median(faster):.2f} times or more.\n"
    )
    command = (
        f"python never_slower.py --plans {options.plans} --seed {options.seed} "
        f"--narrow {options.narrow:g} --seconds {options.seconds:g}"
    )
    packages = ("vibfx", "torch", "torchvision", "onnxruntime")
    for fact, value in facts(command, packages).items():
        print(f"- {fact}: {value}")


def one_plan(source: np.random.Generator, narrow: float, seconds: float) -> float:
    """Draw a network and a target, cut, measure; how many times as fast it got."""
    is_narrow = source.random() < narrow
    name, side = str(source.choice(NARROW if is_narrow else NETWORKS)), int(source.choice(SIDES))
    kind: Cost = "flops" if source.random() < 0.5 else "params"
    share, seed = float(source.uniform(0.2, 0.95)), int(source.integers(2**31))
    torch.manual_seed(seed)
    if is_narrow:
        side = 32 if name == "resnet20" else 28
    graph = vibfx.trace(network(name).eval(), torch.randn(2, 1 if side == 28 else 3, side, side))
    small = by_landing(graph, share, seed, None, kind=kind)
    with tempfile.TemporaryDirectory(prefix="vibfx-") as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(2)]
        for module, path in zip((graph, small), paths, strict=True):
            export_onnx(module, path)
        before, after = latencies(paths, graph, seconds=seconds)
    left = vibfx.measure(small).flops / vibfx.measure(graph).flops
    print(
        f"| {name} | {side} | {kind}={share:.2f} | {100 * left:.1f} | {before:.3g} | {after:.3g} "
        f"| {before / after:.2f} |",
        flush=True,
    )
    return before / after


def network(name: str) -> nn.Module:
    """With random weights."""
    if name == "resnet20":
        return ResNet20()
    if name in NARROW:
        return mnist_networks.NETWORKS[name]()
    return torchvision.models.get_model(name, weights=None)


if __name__ == "__main__":
    main()
