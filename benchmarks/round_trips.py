"""Networks saved and read back by a process that has no package of models: bit for bit the same?

    cd benchmarks && python round_trips.py [NAME ...]

A random half of every group of channels goes. What is left is saved with ``vibfx.save``. A fresh
process, in which torchvision, timm and transformers cannot be imported, loads it with
``vibfx.load``, compares its outputs with those from before, trains it for one step, shuts and cuts
another half, proves that right, and exports the result, which is compared with ONNX Runtime.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from facts import facts
from torch import Tensor, fx
from torch.utils import _pytree as pytree

import vibfx
from vibfx.gates import gates_of
from vibfx.inputs import call_arguments, random_inputs
from vibfx.passes import FoldGates, InsertGates, PruneChannels

NAMES = (
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5"),
    *("convnext_tiny", "maxvit_t", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "vgg11_bn"),
    *("vit_b_16", "segmentation/fcn_resnet50", "video/r3d_18", "timm/cait_xxs24_224"),
    *("timm/ghostnet_050", "timm/mixer_s32_224", "timm/nf_resnet26", "timm/volo_d1_224"),
    *("transformers/bert", "transformers/gpt2", "transformers/t5", "transformers/detr"),
)
HIDDEN = ("torchvision", "timm", "transformers")
HEAD = """\
| Network | Nodes | MB | Load s | Bit for bit | Parameters left after the second cut % | ONNX |
|---|--:|--:|--:|---|--:|--:|"""


def main() -> None:
    """A row for every network; the exit code is 1 if one did not come back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="of the zoo's models")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(come_back(options.worker)))
        return
    print(HEAD, flush=True)
    failed = 0
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            row, good = round_trip(name, Path(folder))
        failed += not good
        print(row, flush=True)
    print(f"\n{len(options.names) - failed} of {len(options.names)} came back.\n")
    for fact, value in facts("make round-trips", ("vibfx", "torch", "onnxruntime")).items():
        print(f"- {fact}: {value}")
    sys.exit(failed > 0)


def round_trip(name: str, folder: Path) -> tuple[str, bool]:
    """Save a network, and have another process read it."""
    small = half_of(traced(name))
    vibfx.save(small, folder / "saved")
    inputs = random_inputs(small, 2, torch.Generator().manual_seed(0))
    torch.save(list(inputs), folder / "inputs.pt")
    torch.save(outputs(small, inputs), folder / "outputs.pt")
    command = [sys.executable, __file__, "--worker", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return f"| {name} | - | - | - | {run.stderr.strip().splitlines()[-1]} | - | - |", False
    found = json.loads(run.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in (folder / "saved").iterdir()) / 1e6
    row = (
        f"| {name} | {len(small.graph.nodes):,} | {size:.1f} | {found['seconds']:.1f} "
        f"| {'yes' if found['equal'] else 'no'} | {100 * found['left']:.1f} "
        f"| {found['onnx']:.0e} |"
    )
    return row, found["equal"]


def traced(name: str) -> fx.GraphModule:
    """A network of the zoo with random weights that keep numbers within bounds."""
    from zoo.models import find
    from zoo.weights import calm, prepare_graph

    torch.manual_seed(0)
    model, inputs = find(name if "/" in name else f"torchvision/{name}").build()
    graph = vibfx.trace(model.eval(), inputs)  # type: ignore[arg-type]
    examples = random_inputs(graph, 8, torch.Generator().manual_seed(1))
    args, kwargs = call_arguments(graph, examples)
    prepare_graph(graph, lambda: graph(*args, **kwargs))
    calm(graph, lambda: graph(*args, **kwargs))
    return graph


def half_of(graph: fx.GraphModule) -> fx.GraphModule:
    """What is left when a random half of every gate's units is shut, proved equal."""
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    generator = torch.Generator().manual_seed(0)
    for gate in gates_of(gated).values():
        chosen = torch.randperm(gate.units, generator=generator) >= gate.units // 2
        gate.open_exactly(chosen)
    cut = PruneChannels(vibfx.plan(gated))(gated).graph_module
    small = FoldGates()(cut).graph_module
    vibfx.verify(gated, small)
    return small


def outputs(graph: fx.GraphModule, inputs: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that a graph returns."""
    args, kwargs = call_arguments(graph, inputs)
    with torch.no_grad():
        leaves = pytree.tree_leaves(graph(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def come_back(folder: Path) -> dict[str, Any]:
    """In a process that lacks the packages of models: load, compare, train, compress, export."""
    assert not set(HIDDEN) & {name for name, module in sys.modules.items() if module}
    sys.modules.update(dict.fromkeys(HIDDEN))  # from now on their import fails
    start = time.perf_counter()
    graph = vibfx.load(folder / "saved")
    seconds = time.perf_counter() - start
    inputs, before = torch.load(folder / "inputs.pt"), torch.load(folder / "outputs.pt")
    found = outputs(graph, inputs)
    equal = len(found) == len(before) and all(map(torch.equal, found, before))
    train(graph, inputs)
    assert not all(map(torch.equal, outputs(graph, inputs), before))
    smaller = half_of(graph)
    left = vibfx.measure(smaller).parameters / vibfx.measure(graph).parameters
    parity = vibfx.export_onnx(smaller, folder / "again.onnx").difference
    vibfx.save(smaller, folder / "again")
    vibfx.load(folder / "again")
    return {"seconds": seconds, "equal": equal, "left": left, "onnx": parity}


def train(graph: fx.GraphModule, inputs: list[Tensor]) -> None:
    """One step on a loss of no meaning."""
    optimizer = torch.optim.SGD(graph.parameters(), lr=1e-3)
    args, kwargs = call_arguments(graph, inputs)
    leaves = pytree.tree_leaves(graph(*args, **kwargs))
    floats = [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
    torch.stack([x.square().mean() for x in floats]).sum().backward()
    torch.nn.utils.clip_grad_norm_(graph.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
