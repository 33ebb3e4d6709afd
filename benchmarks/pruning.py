"""Torch-Pruning, brought to a budget of FLOPs: the baselines' side.

Used as its own benchmark uses it (Fang et al., *DepGraph: Towards Any Structural Pruning*, CVPR
2023, arXiv 2301.12900): all channels are ranked together (``global_pruning``), ranked anew after
every small step, and the layers that make the output are left alone. Here a step is one channel.
"""

from collections.abc import Iterator

import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.baseline import makers_of_output

import vibfx
from vibfx.data import Loader
from vibfx.errors import TargetError
from vibfx.training.resuming import set_epoch

# What ranks channels, by the name in the table: all of them over whole groups of coupled channels,
# divided by the group's mean.
IMPORTANCES = {
    # The L1 norm of Li et al., Pruning filters for efficient ConvNets (ICLR 2017).
    "magnitude": tp.importance.MagnitudeImportance(p=1),
    # DepGraph's own, without the sparse training that may go before it.
    "group norm": tp.importance.GroupMagnitudeImportance(p=2),
    # Molchanov et al., Importance estimation for neural network pruning (CVPR 2019).
    "Taylor": tp.importance.GroupTaylorImportance(),
    # Liu et al., Network slimming (ICCV 2017), without the sparse training that goes before it.
    "batch-norm scale": tp.importance.BNScaleImportance(),
    "random": tp.importance.RandomImportance(),
}

# The least share of a budget that counts as the same budget.
CLOSE = 0.97

# Batches whose gradients the Taylor importance sums, and how often on the way it does so anew.
BATCHES, REFRESHES = 10, 10

_MAKES = (tp.prune_conv_out_channels, tp.prune_linear_out_channels)


def prune(model: nn.Module, method: str, share: float, x: Tensor, train: Loader) -> None:
    """Remove channels, one after the other, until a share of the FLOPs is left; in place.

    A channel that is so large that the result would fall short of the budget is passed over, and
    the next in rank goes, as our own landing does. Where none fits, it goes after all.

    Args:
        model: A trained network.
        method: One of ``IMPORTANCES``.
        share: Of the multiply-accumulates, as ``vibfx.measure`` counts them, above 0 and below 1.
        x: Example inputs ``[2, ...]``.
        train: Batches for the Taylor importance; no weight is trained.

    Raises:
        TargetError: The ranking ends before the budget is met.
    """
    cost, ignored = _Cost(model, x), makers_of_output(model, x)
    ignored += partly_reached(model, x, ignored)
    channels = sum(len(group[0].idxs) for group in _groups(model, x, ignored))
    pruner = tp.BasePruner(
        model,
        x,
        importance=IMPORTANCES[method],
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=2 * channels,  # rounding makes two channels of some steps of one
        ignored_layers=ignored,
    )
    batches = train if method == "Taylor" else None
    met = any(_lands(pruner, batches, cost, share, least) for least in (CLOSE * share, 0.0))
    model.zero_grad()
    if not met:
        raise TargetError(f"its ranking ends at {100 * cost.share():.1f} % of the FLOPs")


def _ranked(pruner: tp.BasePruner, train: Loader | None) -> Iterator[tp.Group]:
    """What goes next, ranked anew each time; with a loader, by gradients renewed on the way."""
    pruner.reset()
    every = max(1, pruner.iterative_steps // REFRESHES)
    for step in range(pruner.iterative_steps):
        if train is not None and step % every == 0:
            sum_gradients(pruner.model, train)
        yield from pruner.step(interactive=True)


def _lands(
    pruner: tp.BasePruner, train: Loader | None, cost: "_Cost", share: float, least: float
) -> bool:
    """Remove the channels that leave no less than the least; whether that meets the budget."""
    for group in _ranked(pruner, train):
        if cost.share_without(group, pruner.DG) >= least:
            group.prune()
        if cost.share() <= share:
            return True
    return False


def partly_reached(model: nn.Module, x: Tensor, ignored: list[nn.Module]) -> list[nn.Module]:
    """The layers that Torch-Pruning couples with others of another number of channels.

    Where a shortcut pads its channels, channel 0 is summed with channel 8, say, while Torch-Pruning
    goes on with number 0: it would remove other channels than it has ranked. Such layers are left
    alone, as they commonly are where residual networks for CIFAR-10 are pruned.
    """
    found: list[nn.Module] = []
    for group in _groups(model, x, ignored):
        makers = [(dep.layer, len(idxs)) for dep, idxs in group if dep.pruning_fn in _MAKES]
        if any(count != layer.weight.shape[0] for layer, count in makers):
            found.extend(layer for layer, _ in makers)
    return found


def sum_gradients(model: nn.Module, train: Loader) -> None:
    """The gradients of the cross-entropy, summed over the same few batches each time."""
    model.zero_grad()
    set_epoch(train, 0)
    for _, (x, labels) in zip(range(BATCHES), train, strict=False):
        F.cross_entropy(model(x), labels).backward()


def _groups(model: nn.Module, x: Tensor, ignored: list[nn.Module]) -> list[tp.Group]:
    graph = tp.DependencyGraph().build_dependency(model, x)
    return list(graph.get_all_groups(ignored_layers=ignored))


class _Cost:
    """The share of the FLOPs that is left, from the layers' sizes alone: no trace a channel."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._uses: dict[nn.Module, float] = {}
        for layer in vibfx.measure(vibfx.trace(model, x)).layers:
            module = model.get_submodule(layer.name)
            self._uses[module] = self._uses.get(module, 0.0) + layer.uses
        self._full = self._flops()

    def _flops(self) -> float:
        return sum(self._of(module) for module in self._uses)

    def _of(self, module: nn.Module) -> float:
        return float(module.weight.numel()) * self._uses[module]  # type: ignore[operator]

    def share(self) -> float:
        """Of the FLOPs as they were, from 0 to 1."""
        return self._flops() / self._full

    def share_without(self, group: tp.Group, graph: tp.DependencyGraph) -> float:
        """What would be left of them if the group's channels went."""
        left: dict[nn.Module, float] = {}
        for dep, idxs in group:
            module, makes = dep.layer, graph.is_out_channel_pruning_fn(dep.pruning_fn)
            if module in self._uses:
                width = graph.get_out_channels if makes else graph.get_in_channels
                left[module] = left.get(module, 1.0) * (1 - len(idxs) / width(module))
        gone = sum(self._of(module) * (1 - share) for module, share in left.items())
        return self.share() - gone / self._full
