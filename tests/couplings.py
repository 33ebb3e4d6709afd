"""What the analysis found, in a form to write down by hand, and the oracle on one small model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from networks import randomize, shut_half, traced
from torch import Tensor, fx, nn

import vibfx
from vibfx.coupling import STAYS, Coupling
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.inputs import random_inputs
from vibfx.passes import InsertGates, PruneChannels
from vibfx.planning import PruningPlan

INPUT_CHANNELS = "reads channels that cannot be removed, such as those of the model's input"
INPUT_FEATURES = "reads features that cannot be removed, such as those of the model's input"
UNLABELLED = "combined with a tensor whose channels cannot be removed"
TIED_TO_FIXED = "tied to channels that always stay, such as those of the model's input"
OUTPUT = "the model's output"

Unit = frozenset[str]


class Net(nn.Module):
    """Layers by name, and what is done with them: ``forward(net, x)``."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._compute = forward

    def forward(self, x: Tensor) -> Any:
        return self._compute(self, x)


class Value(nn.Module):
    """A bare parameter ``p``, all ones until ``case`` draws it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(shape))


@dataclass(frozen=True)
class Case:
    """A small model and the shape of one example."""

    model: nn.Module
    shape: tuple[int, ...]

    @cached_property
    def graph(self) -> fx.GraphModule:
        return traced(self.model, self.shape)

    @cached_property
    def found(self) -> Coupling:
        return vibfx.analyze(self.graph)


def case(model: nn.Module, *shape: int) -> Case:
    """The model with weights that do not depend on what ran before."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * max(1, parameter[0].numel()) ** -0.5)
            else:
                started_at_one = bool((parameter == 1).all())  # a norm's weight
                parameter.copy_(started_at_one + 0.3 * noise)
    return Case(model.eval(), shape)


def sizes(found: Coupling) -> dict[str, int]:
    """How many units each group has."""
    return {group.name: group.size for group in found.groups}


def sites(found: Coupling) -> list[str]:
    """The nodes behind which a gate goes."""
    return [site.node for site in found.sites]


def units(found: Coupling) -> set[Unit]:
    """Every unit, as the set of ``parameter:dim[index]`` that go together."""
    members: dict[int, set[str]] = {}
    for slot in found.space.slots:
        for index, number in enumerate(found.units_of(slot)):
            if number != STAYS:
                members.setdefault(int(number), set()).add(f"{slot.parameter}:{slot.dim}[{index}]")
    return {frozenset(unit) for unit in members.values()}


def unit(*members: str) -> Unit:
    """Written ``a.weight:0[0,2]`` for the indices 0 and 2 of dimension 0 of ``a.weight``."""
    return frozenset(
        f"{slot}[{index}]"
        for slot, _, indices in (member.rstrip("]").partition("[") for member in members)
        for index in indices.split(",")
    )


def channels(count: int, *slots: str) -> set[Unit]:
    """Units of one index of every slot each, the same index."""
    return {unit(*(f"{slot}[{index}]" for slot in slots)) for index in range(count)}


def rows(count: int, *layers: str) -> set[Unit]:
    """Like ``channels``: ``"a >"`` is what makes the channels, ``"> b"`` what reads them."""
    slots: list[str] = []
    for layer in layers:
        name = layer.strip("> ")
        if layer.startswith(">"):
            slots.append(f"{name}.weight:1")
        else:
            slots.extend([f"{name}.weight:0", f"{name}.bias:0"])
    return channels(count, *slots)


def frozen(found: Coupling) -> dict[str, dict[str, int]]:
    """For each ``parameter:dim`` how many indices stay for which reason."""
    reasons: dict[str, dict[str, int]] = {}
    for entry in found.frozen:
        counts = reasons.setdefault(f"{entry.parameter}:{entry.dim}", {})
        counts[entry.reason] = counts.get(entry.reason, 0) + entry.count
    return reasons


def check_exact(
    given: Case, *, seed: int = 0, share: float = 0.5, control: bool = True
) -> PruningPlan:
    """Gate, shut a random half, cut: the cut graph equals the gated one.

    ``control=False`` where some unit makes no difference, so that opening it cannot show.

    Returns:
        The plan that was applied.
    """
    module = InsertGates(given.found)(given.graph).graph_module
    shut_half(module, seed, share)
    randomize(module, given.shape, seed)
    plan = vibfx.plan(module)
    small = PruneChannels(plan)(module).graph_module

    found = vibfx.verify(module, small, batch_sizes=(1, 3), seed=seed)
    assert found.error < 1e-9
    assert found.sensitivity > 1e-4
    assert plan.removed_units > 0
    assert vibfx.measure(small).parameters < vibfx.measure(module).parameters
    if control:
        _check_gates_matter(module, seed)
    return plan


def check_gradients(given: Case, *, seed: int = 0, share: float = 0.5) -> None:
    """After the cut, every parameter's gradient is the kept part of the gated graph's."""
    module = InsertGates(given.found)(given.graph).graph_module
    shut_half(module, seed, share)
    plan = vibfx.plan(module)
    small = PruneChannels(plan)(module).graph_module
    for graph in (module, small):
        to_dtype(graph, torch.float64).eval()
        inputs = random_inputs(graph, 3, torch.Generator().manual_seed(seed))
        sum(part.square().sum() for part in graph(*inputs)).backward()
    full = dict(module.named_parameters())
    seen = 0
    for name, parameter in small.named_parameters():
        if name.startswith("gates."):
            continue
        expected = full[name].grad
        for dim, kept in plan.parameters.get(name, {}).items():
            expected = expected.index_select(dim, torch.tensor(kept))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10)
        seen += bool(parameter.grad.abs().max() > 1e-6)
    assert seen > len(plan.parameters) / 2


def _check_gates_matter(module: fx.GraphModule, seed: int) -> None:
    """The negative control: with the shut units of one gate open, another function comes out."""
    inputs = random_inputs(module, 4, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = module(*inputs)
        for gate in gates_of(module).values():
            if bool(gate.open().all()):
                continue
            means = gate.mu.clone()
            gate.mu[~gate.open()] = 1.0
            assert not torch.allclose(module(*inputs), expected, rtol=1e-3, atol=1e-3)
            gate.mu.copy_(means)
