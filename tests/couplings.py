"""What the analysis found, in a form to write down by hand, and the oracle on one small model."""

import copy
from dataclasses import dataclass

import pytest
import torch
from networks import gated, randomize, shut_half, traced
from torch import fx, nn

import vibfx
from vibfx.coupling import STAYS, Coupling
from vibfx.errors import EquivalenceError
from vibfx.gates import gates_of
from vibfx.passes import PruneChannels

Unit = frozenset[str]


@dataclass(frozen=True)
class Case:
    """A small model and the shape of one example."""

    model: nn.Module
    shape: tuple[int, ...]

    def analyze(self) -> Coupling:
        return vibfx.analyze(traced(self.model, self.shape))


def case(model: nn.Module, *shape: int) -> Case:
    """The model with weights that do not depend on what ran before."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan_in = max(1, parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return Case(model.eval(), shape)


def sizes(coupling: Coupling) -> dict[str, int]:
    """How many units each group has."""
    return {group.name: group.size for group in coupling.groups}


def slots(coupling: Coupling) -> dict[str, set[str]]:
    """What each group touches, as ``parameter:dim``."""
    return {
        group.name: {f"{slot.parameter}:{slot.dim}" for slot in group.slots}
        for group in coupling.groups
    }


def sites(coupling: Coupling) -> list[str]:
    """The nodes behind which a gate goes."""
    return [site.node for site in coupling.sites]


def units(coupling: Coupling) -> set[Unit]:
    """Every unit, as the set of ``parameter:dim[index]`` that go together."""
    members: dict[int, set[str]] = {}
    for slot in coupling.space.slots:
        for index, unit in enumerate(coupling.units_of(slot)):
            if unit != STAYS:
                members.setdefault(int(unit), set()).add(f"{slot.parameter}:{slot.dim}[{index}]")
    return {frozenset(unit) for unit in members.values()}


def unit(*members: str) -> Unit:
    """Written ``a.weight:0[0,2]`` for the indices 0 and 2 of dimension 0 of ``a.weight``."""
    return frozenset(
        f"{slot}[{index}]"
        for slot, _, indices in (member.rstrip("]").partition("[") for member in members)
        for index in indices.split(",")
    )


def frozen(coupling: Coupling) -> dict[str, dict[str, int]]:
    """For each ``parameter:dim`` how many indices stay for which reason."""
    found: dict[str, dict[str, int]] = {}
    for entry in coupling.frozen:
        reasons = found.setdefault(f"{entry.parameter}:{entry.dim}", {})
        reasons[entry.reason] = reasons.get(entry.reason, 0) + entry.count
    return found


def check_exact(given: Case, *, seed: int = 0, share: float = 0.5) -> vibfx.PruningPlan:
    """Gate, shut a random half, cut: the cut graph equals the gated one, and a wrong one does not.

    Returns:
        The plan that was applied.
    """
    module = gated(traced(given.model, given.shape))
    shut_half(module, seed, share)
    randomize(module, given.shape, seed)
    plan = vibfx.plan(module)
    small = PruneChannels(plan)(module).graph_module

    found = vibfx.verify(module, small, batch_sizes=(1, 3), seed=seed)
    assert found.error < 1e-9
    assert found.sensitivity > 1e-4
    assert plan.removed_units > 0
    assert vibfx.measure(small).parameters < vibfx.measure(module).parameters
    for name in gates_of(module):
        with pytest.raises(EquivalenceError):
            vibfx.verify(_with_gate_opened(module, name), small, batch_sizes=(2,), seed=seed)
    return plan


def _with_gate_opened(module: fx.GraphModule, name: str) -> fx.GraphModule:
    """A copy in which the shut units of one gate are open again: the negative control."""
    other = copy.deepcopy(module)
    gate = gates_of(other)[name]
    with torch.no_grad():
        gate.mu[~gate.open()] = 1.0
    return other
