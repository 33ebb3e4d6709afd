"""One model through Torch-Pruning, in a process of its own.

    cd benchmarks && python -m zoo.baseline torchvision/resnet18

Half of every group by magnitude, the layers that make the output left alone. Equal means: the
pruned network computes what the original one does once every layer that read a removed channel has
zeros where it read it.
"""

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from zoo.attention import head_counts, mend_attention
from zoo.entries import Entry, Inputs, call
from zoo.numbers import Outputs, compare, tensors
from zoo.progress import Progress, entry_from_arguments
from zoo.weights import prepare_model

RATIO = 0.5
TOLERANCE = 1e-9
Layer = nn.Linear | nn.modules.conv._ConvNd


def main() -> None:
    """Check the model that the command line names."""
    entry = entry_from_arguments()
    torch.manual_seed(0)
    progress = Progress(built=False, runs=False, equal=False)
    with progress.until_done():
        check(entry, progress)


def check(entry: Entry, progress: Progress) -> None:
    """Build, prune, run, compare; every number goes into the record."""
    with progress.step("build"):
        model, inputs = entry.build()
        model.eval()
        prepare_model(model, lambda: call(model, inputs))
        ignored = makers_of_output(model, inputs)
        heads = head_counts(model)
        before = sum(p.numel() for p in model.parameters())
    with progress.step("dependency graph", "build_s"):
        pruner = tp.pruner.MagnitudePruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=ignored,
            num_heads=dict(heads),
            round_to=None,
        )
    progress.note(built=True)
    with progress.step("prune"):
        masked, seconds = prune(model, pruner)
        mend_attention(model, heads)
    after = sum(p.numel() for p in model.parameters())
    progress.note(prune_s=round(seconds, 4), removed=1 - after / before)
    with progress.step("run"), torch.no_grad():
        call(model, inputs)
    progress.note(runs=True, status="runs")
    if after == before:
        progress.note(status="nothing pruned")
        return
    with progress.step("compare"):
        error = difference(masked, model, inputs)
    progress.note(error=error, equal=error <= TOLERANCE)


def prune(model: nn.Module, pruner: Any) -> tuple[nn.Module, float]:
    """Prune every group, noting in a copy of the model what each layer no longer reads.

    Returns:
        The copy, with zeros there, and the processor time that Torch-Pruning itself took.
    """
    record = Reads(model)
    started = time.process_time()
    noting = 0.0
    for group in pruner.step(interactive=True):
        before = time.process_time()
        record.note(group)
        noting += time.process_time() - before
        group.prune()
    return record.masked, time.process_time() - started - noting


@dataclass
class Reads:
    """Which input channels each layer has lost, in the numbering of the original network.

    Attributes:
        model: The network that is being pruned.
        masked: A copy of the original one, with zeros where its layers read what has gone.
    """

    model: nn.Module
    masked: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.masked = copy.deepcopy(self.model)
        pairs = zip(self.model.modules(), self.masked.modules(), strict=True)
        self._twin: dict[Layer, Layer] = {
            m: twin for m, twin in pairs if isinstance(m, Layer) and isinstance(twin, Layer)
        }
        self._left: dict[Layer, np.ndarray[Any, Any]] = {}

    def note(self, group: Any) -> None:
        """Zero what the readers in a group lose."""
        lost: dict[Layer, set[int]] = {}
        for dependency, indices in group:
            layer = dependency.target.module
            if layer in self._twin and reads(layer, dependency.handler):
                lost.setdefault(layer, set()).update(int(i) for i in indices)
        for layer, gone in lost.items():
            left = self._left.setdefault(layer, np.arange(width(self._twin[layer])))
            zero_columns(self._twin[layer], left[sorted(gone)].tolist())
            self._left[layer] = np.delete(left, sorted(gone))


def reads(layer: Layer, handler: Any) -> bool:
    """Whether this pruning function takes input channels away, and they are summed over."""
    depthwise = not isinstance(layer, nn.Linear) and 1 < layer.groups == layer.out_channels
    return not depthwise and handler.__name__ == "prune_in_channels"


def width(layer: nn.Module) -> int:
    """How many channels the layer reads."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def zero_columns(layer: Layer, channels: list[int]) -> None:
    """The layer as if these of its input channels were zero."""
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            layer.weight[:, channels] = 0.0
        elif layer.transposed:
            layer.weight[channels] = 0.0
        else:
            wide, tall = layer.in_channels // layer.groups, layer.out_channels // layer.groups
            for channel in channels:
                part, column = divmod(channel, wide)
                layer.weight[part * tall : (part + 1) * tall, column] = 0.0


def difference(masked: nn.Module, pruned: nn.Module, inputs: Inputs) -> float:
    """The largest difference in float64, divided by the change between two inputs."""
    runs: list[tuple[Outputs, Outputs]] = []
    pair = masked.double().eval(), pruned.double().eval()
    for seed in (0, 1):
        given = redrawn(inputs, seed)
        with torch.no_grad():
            expected, actual = (tensors(call(model, given)) for model in pair)
        runs.append((expected, actual))
    return compare(runs)


def redrawn(inputs: Inputs, seed: int) -> Inputs:
    """Inputs of the same shapes, in float64; whole numbers are shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)

    if isinstance(inputs, Tensor):
        return draw(inputs)
    if isinstance(inputs, tuple):
        return tuple(draw(x) for x in inputs)
    return {name: draw(x) for name, x in inputs.items()}


def makers_of_output(model: nn.Module, inputs: Inputs) -> list[nn.Module]:
    """The layers that the output comes out of with no other layer in between."""
    made: dict[Any, nn.Module] = {}
    kept: list[Tensor] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        for tensor in tensors(output):
            made[tensor.grad_fn] = layer
            kept.append(tensor)  # a function's identity lasts as long as its output

    layers = [m for m in model.modules() if isinstance(m, (Layer, nn.MultiheadAttention))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        outputs = tensors(call(model, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[nn.Module, None] = {}
    waiting, seen = [x.grad_fn for x in outputs], set()
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if function in made:
            found[made[function]] = None
        else:
            waiting.extend(parent for parent, _ in function.next_functions)
    return list(found)


if __name__ == "__main__":
    main()
