"""The oracle over one random network: gate it, shut random units, cut, fold, compare."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import fx

import vibfx
from fuzzing import attention_steps, common_steps, image_steps, shape_steps
from fuzzing.building import STEPS, WEIGHTS, build
from fuzzing.description import Description, networks
from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError, NothingRemovableError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.inputs import random_inputs
from vibfx.passes import FoldGates, InsertGates, PruneChannels
from vibfx.planning import PruningPlan

__all__ = ["DESCRIPTIONS", "Mismatch", "Tally", "check", "gated_network", "prepare"]

FAMILIES = (attention_steps, common_steps, image_steps, shape_steps)  # imported to register
DESCRIPTIONS = networks(list(STEPS), list(WEIGHTS.values()))

# For every gate the unit of each of its entries.
GateUnits = dict[str, np.ndarray]

TOLERANCE = 1e-9
SENSITIVE = 1e-6  # below it rounding may decide


class Mismatch(AssertionError):  # noqa: N818  a finding, not an error of the fuzzer
    """A cut or folded graph computes something else, or not less."""


@dataclass
class Tally:
    """What became of the networks and masks that were drawn."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        self.counts[what] += count

    def __getitem__(self, what: str) -> int:
        return self.counts[what]

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))


def gated_network(description: Description) -> fx.GraphModule:
    """The network as a gated graph in float64, so that nothing is rounded on the way."""
    model = build(description).double()
    graph = vibfx.trace(model, torch.randn(2, *description.shape, dtype=torch.float64))
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    return to_dtype(gated, torch.float64)


@dataclass(frozen=True)
class Prepared:
    """A gated network, and for every gate the unit of each of its entries."""

    gated: fx.GraphModule
    units: GateUnits


def prepare(description: Description, tally: Tally) -> Prepared | None:
    """The gated network; None, and counted, where there is nothing to check."""
    tally.add("graphs")
    try:
        gated = gated_network(description)
    except NothingRemovableError:
        tally.add("graphs: nothing removable")
        return None
    if not _is_finite(gated):
        tally.add("graphs: not finite")
        return None
    return Prepared(gated, vibfx.analyze(gated).gate_units(gated))


def check(
    network: Prepared,
    tally: Tally,
    seed: int,
    *,
    control: bool = True,
    onnx: Path | None = None,
) -> None:
    """Draw a mask, cut and fold, and compare.

    Raises:
        Mismatch: The result is wrong. Errors of the product pass through, as they are findings too.
    """
    gated = copy_graph_module(network.gated)
    shut(gated, seed)
    plan = vibfx.plan(gated)
    open_kept(gated, plan, network.units)
    tally.add("pairs")
    if not plan.removed_units:
        tally.add("pairs: nothing shut")
        return
    small = PruneChannels(plan)(gated).graph_module
    if vibfx.measure(small).parameters >= vibfx.measure(gated).parameters:
        raise Mismatch("the cut graph has no fewer parameters")
    folded = FoldGates()(small).graph_module
    if gates_of(folded):
        raise Mismatch("gates are left after folding")
    sensitive = _compare(gated, small, folded)
    tally.add("pairs: checked" if sensitive else "pairs: insensitive")
    tally.add("pairs: a block gone", any(not group.kept for group in plan.groups))
    if sensitive and control:
        _control(gated, small, tally)
    if sensitive and onnx is not None:
        vibfx.export_onnx(to_dtype(folded, torch.float32), onnx)
        tally.add("pairs: ONNX agrees")


def shut(gated: fx.GraphModule, seed: int) -> None:
    """Shut units at random, in some groups all of them; the other gates are near 1 or -1."""
    chance = random.Random(seed)
    share, whole = chance.choice((0.2, 0.5, 0.8)), chance.choice((0.0, 0.15, 0.4))
    negative = chance.choice((False, False, True))
    with torch.no_grad():
        for gate in gates_of(gated).values():
            all_of_it = chance.random() < whole
            for unit in range(gate.units):
                sign = -1 if negative and chance.random() < 0.3 else 1
                is_shut = all_of_it or chance.random() < share
                gate.mu[unit] = 0.0 if is_shut else sign * chance.uniform(0.5, 1.5)


def open_kept(gated: fx.GraphModule, plan: PruningPlan, units: GateUnits) -> None:
    """Open the gates of units that the plan brought back, so that both say the same."""
    kept = _kept(plan)
    with torch.no_grad():
        for name, numbers in units.items():
            mu = gated.get_submodule(name).mu
            mu[torch.from_numpy(kept[numbers]) & (mu == 0)] = 0.75


def _kept(plan: PruningPlan) -> np.ndarray:
    """Of all units, which stay; the last entry is for what can never go."""
    lines = [np.isin(np.arange(group.units), group.kept) for group in plan.groups]
    return np.concatenate([*lines, [True]])


def _is_finite(module: fx.GraphModule) -> bool:
    inputs = random_inputs(module, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        results = torch.utils._pytree.tree_leaves(module(*inputs))
    return all(bool(y.isfinite().all()) and float(y.abs().max()) < 1e6 for y in results)


def _compare(gated: fx.GraphModule, small: fx.GraphModule, folded: fx.GraphModule) -> bool:
    """Compare the ends, and where they differ each step; whether it could have failed.

    Raises:
        Mismatch: It did fail.
    """
    try:
        found = vibfx.verify(gated, folded, tolerance=math.inf, batch_sizes=(1, 3))
    except EquivalenceError as error:
        if "can tell nothing" in str(error):
            return False
        raise
    if found.sensitivity < SENSITIVE:
        return False
    if not found.error < TOLERANCE:
        _name_step(gated, small, "cut")
        _name_step(gated, folded, "folded")
        return False  # no more than rounding, which the network amplifies
    return True


def _name_step(gated: fx.GraphModule, other: fx.GraphModule, what: str) -> None:
    try:
        vibfx.verify(gated, other, tolerance=TOLERANCE, batch_sizes=(1, 3))
    except EquivalenceError as error:
        raise Mismatch(f"{what}: {error}") from error


def _control(gated: fx.GraphModule, small: fx.GraphModule, tally: Tally) -> None:
    """With a shut unit open again another function comes out, or the unit hardly matters."""
    other = copy_graph_module(gated)
    gate = next(g for g in gates_of(other).values() if bool((g.mu == 0).any()))
    with torch.no_grad():
        gate.mu[int((gate.mu == 0).nonzero()[0])] = 1.0
    try:
        vibfx.verify(other, small, batch_sizes=(3,))
        tally.add("controls: same")
    except EquivalenceError:
        tally.add("controls: told apart")
