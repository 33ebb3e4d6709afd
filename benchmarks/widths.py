"""What widths in whole steps save: half of the FLOPs, in ONNX Runtime, beside Torch-Pruning.

    cd benchmarks && python widths.py [--share 0.5] [NAME ...]

Channels go until a share of the FLOPs is left: by the landing of ``vibfx.compress``, random ones
but for their price, to any width and to whole steps of the runtime, and by Torch-Pruning, random
ones, the same share of every layer, to any width and with its ``round_to``; which leaves less than
was asked for, so that vibfx is asked for as little as well. All become ONNX files in the same way
and take turns, on one thread, at 224 x 224 pixels and batch 1. How accurate the networks are is not
looked at: they are not trained.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
import torchvision
from facts import facts
from pruning import IMPORTANCES
from torch import Tensor, fx, nn
from zoo.baseline import makers_of_output

import vibfx
from vibfx.budgets import Budget
from vibfx.costs import Cost, CostModel
from vibfx.errors import VibfxError
from vibfx.export import export_onnx, latencies
from vibfx.latency import nominal_latency, unit_steps
from vibfx.passes import PruneChannels
from vibfx.planning import Keep, plan_units
from vibfx.training.controller import Controller
from vibfx.training.landing import Landing

NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_b0")
ROUND_TO = 8
HEAD = """\
| Network | Cut by | FLOPs left % | Channels left | ms | Times as fast | of the ideal % |
|---|---|--:|--:|--:|--:|--:|"""


@dataclass(frozen=True)
class Cut:
    """A network that was made smaller.

    Attributes:
        by: What did it.
        flops: The share of the multiply-accumulates that is left.
        channels: How many outputs all layers have together.
        path: Its ONNX file.
    """

    by: str
    flops: float
    channels: int
    path: Path


def main() -> None:
    """Rows for each network: as it was, and cut in five ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="of torchvision")
    parser.add_argument("--share", type=float, default=0.5, help="of the FLOPs, that is left")
    parser.add_argument("--seconds", type=float, default=60.0, help="to measure each network for")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(HEAD, flush=True)
    for name in options.networks:
        torch.manual_seed(options.seed)
        model = getattr(torchvision.models, name)().eval()
        x = torch.randn(2, 3, 224, 224)
        graph = vibfx.trace(model, x)
        with tempfile.TemporaryDirectory(prefix="vibfx-") as folder:
            cuts = list(all_cuts(model, graph, x, options.share, options.seed, Path(folder)))
            times = latencies([cut.path for cut in cuts], graph, seconds=options.seconds)
        for cut, taken in zip(cuts, times, strict=True):
            faster = times[0] / taken
            print(
                f"| {name} | {cut.by} | {100 * cut.flops:.1f} | {cut.channels:,} | {taken:.2f} "
                f"| {faster:.2f} | {100 * faster * cut.flops:.0f} |",
                flush=True,
            )
    print()
    command = f"python widths.py --share {options.share:g}"
    packages = ("vibfx", "torch", "torchvision", "torch-pruning", "onnxruntime")
    for fact, value in facts(command, packages).items():
        print(f"- {fact}: {value}")


def all_cuts(
    model: nn.Module, graph: fx.GraphModule, x: Tensor, share: float, seed: int, folder: Path
) -> Iterator[Cut]:
    """The network as it is, and cut in every way that works."""
    full = vibfx.measure(graph).flops
    yield Cut("nothing", 1.0, _channels(graph), export_onnx(graph, folder / "nothing.onnx").path)

    def cut(by: str, way: Callable[[], fx.GraphModule]) -> Iterator[Cut]:
        try:
            small = way()
            path = export_onnx(small, folder / f"{by}.onnx").path
        except (VibfxError, RuntimeError, ValueError) as error:
            print(f"| | {by} | fails: {type(error).__name__} | | | | |", flush=True)
            return
        yield Cut(by, vibfx.measure(small).flops / full, _channels(small), path)

    yield from cut("vibfx, any width", lambda: by_landing(graph, share, seed, 1))
    yield from cut("vibfx, whole steps", lambda: by_landing(graph, share, seed, None))
    yield from cut("Torch-Pruning", lambda: by_torch_pruning(model, x, share, None))
    by_others = f"Torch-Pruning, round_to={ROUND_TO}"
    others = list(cut(by_others, lambda: by_torch_pruning(model, x, share, ROUND_TO)))
    yield from others
    if others:
        least = others[0].flops
        yield from cut("vibfx, as few FLOPs", lambda: by_landing(graph, least, seed, None))


def _channels(graph: fx.GraphModule) -> int:
    return sum(layer.shape[0] for layer in vibfx.measure(graph).layers)


def by_landing(
    graph: fx.GraphModule, share: float, seed: int, round_to: int | None, *, kind: Cost = "flops"
) -> fx.GraphModule:
    """Cut by the landing of the compressor, with random scores in place of trained gates.

    As gates are when they are trained, those of channels score less that cost more: what channels
    are worth is drawn, all alike, and each pays the price of a budget of this kind.
    """
    coupling = vibfx.analyze(graph)
    costs = CostModel(graph, coupling)
    every = np.ones(coupling.units, dtype=bool)
    prices = np.log(np.maximum(costs.unit_shares(kind, every), 1e-12))
    scores = np.random.default_rng(seed).normal(0.0, 2.0, coupling.units) - prices
    scores -= np.median(scores)
    budgets = (Budget(kind, share),)

    def cut(keep: Keep) -> fx.GraphModule:
        return PruneChannels(plan_units(graph, coupling, keep), coupling)(graph).graph_module

    controller = Controller(
        budgets, costs, coupling.units, shares=costs.unit_shares, updates=1, start=1.0
    )
    landing = Landing(
        *(coupling, costs, budgets, controller),
        steps=lambda: unit_steps(graph, coupling, costs.flops_shares(), round_to),
        latency=lambda: nominal_latency(graph, coupling),
        measured=lambda keep: vibfx.measure(cut(keep)),
    )
    return cut(landing.landed(scores > 0.0, scores))


def by_torch_pruning(
    model: nn.Module, x: Tensor, share: float, round_to: int | None
) -> fx.GraphModule:
    """The most channels with which Torch-Pruning is within the share, the same of every layer."""
    full = vibfx.measure(vibfx.trace(model, x)).flops
    low, high = 0.0, 1.0  # pruning ratios: too few go, enough go
    found: fx.GraphModule | None = None
    for _ in range(10):
        ratio = (low + high) / 2
        cut = copy.deepcopy(model)
        tp.BasePruner(
            cut,
            x,
            importance=IMPORTANCES["random"],
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=makers_of_output(cut, x),
        ).step()
        graph = vibfx.trace(cut, x)
        if vibfx.measure(graph).flops <= share * full:
            found, high = graph, ratio
        else:
            low = ratio
    if found is None:
        raise ValueError("no ratio is within the share")
    return found


if __name__ == "__main__":
    main()
