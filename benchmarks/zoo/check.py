"""One model through vibfx, in a process of its own.

    cd benchmarks && python -m zoo.check torchvision/resnet18 [--onnx]

Prints what is known after every step, a line of JSON each; the last one is the result.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

import vibfx
from vibfx.coupling import Coupling
from vibfx.errors import EquivalenceError, ParityError
from vibfx.gates import VIBGate, gates_of
from vibfx.inputs import call_arguments, random_inputs
from vibfx.passes import FoldGates, InsertGates, PruneChannels
from vibfx.planning import plan_units
from zoo.entries import Entry
from zoo.progress import Progress, entry_from_arguments, first_line
from zoo.weights import calm, prepare_graph

BATCH_SIZES = (2, 3)
TOLERANCE = 1e-9
# Statistics of a few examples are far from those of others, and a deep network then amplifies
# rounding a million times.
CALIBRATION = 16
SHARE = 0.5
# So many gates get a unit back one at a time, before all get one at once.
SINGLE_CONTROLS = 4
ROUNDING = "rounding"


def main() -> None:
    """Check the model that the command line names."""
    entry = entry_from_arguments()
    torch.manual_seed(0)
    progress = Progress(name=entry.name, family=entry.family, note=entry.note)
    with progress.until_done():
        check(entry, progress, onnx="--onnx" in sys.argv)


def check(entry: Entry, progress: Progress, *, onnx: bool) -> None:
    """Trace, analyse, gate, shut, cut, compare; every number goes into the record."""
    with progress.step("build", "build_s"):
        model, inputs = entry.build()
        model.eval()
    progress.note(parameters=sum(p.numel() for p in model.parameters()))
    with progress.step("trace", "trace_s"):
        graph = vibfx.trace(model, inputs)  # type: ignore[arg-type]
    del model, inputs
    progress.note(nodes=len(graph.graph.nodes))
    with progress.step("analyze", "analyze_s"):
        found = vibfx.analyze(graph)
    progress.note(removable=found.removable_share(graph), **counts(found))
    with progress.step("plan", "plan_s"):
        plan = plan_units(graph, found, random_half(found.units))
    with progress.step("rewrite", "prune_s"):
        PruneChannels(plan, found)(graph)
    with progress.step("gate", "gate_s"):
        gated = InsertGates(found)(graph).graph_module
    del graph, found, plan
    with progress.step("randomise"):
        shut_half(gated)
        calibration = random_inputs(gated, CALIBRATION, torch.Generator().manual_seed(1))
        args, kwargs = call_arguments(gated, calibration)
        prepare_graph(gated, lambda: gated(*args, **kwargs))
    small = compare(gated, progress)
    if progress.record["status"].startswith(ROUNDING):
        with progress.step("calm down"):
            calm(gated, lambda: gated(*args, **kwargs))
        progress.note(calmed=True)
        small = compare(gated, progress)
    with progress.step("negative control", "control_s"):
        progress.note(control=negative_control(gated, small))
    if onnx:
        parity(small, lambda: small(*args, **kwargs), progress)


def counts(found: Coupling) -> dict[str, object]:
    """Units, groups, and why the rest stays: the commonest reasons."""
    reasons: dict[str, int] = {}
    for frozen in found.frozen:
        reasons[frozen.reason] = reasons.get(frozen.reason, 0) + frozen.count
    common = sorted(reasons, key=reasons.__getitem__, reverse=True)[:3]
    frozen_for = {reason: reasons[reason] for reason in common}
    return {"units": found.units, "groups": len(found.groups), "frozen": frozen_for}


def shut_half(gated: fx.GraphModule) -> None:
    """A random half of every gate's units; the others get means from 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates_of(gated).values():
            gate.mu.uniform_(0.5, 1.5, generator=generator)
            order = torch.randperm(gate.units, generator=generator)
            gate.mu[order[: int(SHARE * gate.units)]] = 0.0


def random_half(units: int) -> npt.NDArray[np.bool_]:
    """A random half of all units to keep."""
    return np.random.default_rng(0).permutation(units) >= int(SHARE * units)


def cut(gated: fx.GraphModule, progress: Progress) -> fx.GraphModule:
    """The graph without the shut units."""
    with progress.step("cut what is shut"):
        plan = vibfx.plan(gated)
        small = PruneChannels(plan)(gated).graph_module
    left = sum(p.numel() for p in small.parameters()) - gate_parameters(small)
    progress.note(removed_units=plan.removed_units, parameters_left=left)
    return small


def gate_parameters(module: fx.GraphModule) -> int:
    """How many of a graph's parameters are its gates'."""
    return sum(p.numel() for gate in gates_of(module).values() for p in gate.parameters())


def compare(gated: fx.GraphModule, progress: Progress) -> fx.GraphModule:
    """Cut the graph and note the oracle's error."""
    small = cut(gated, progress)
    try:
        with progress.step("verify", "verify_s"):
            result = vibfx.verify(gated, small, tolerance=TOLERANCE, batch_sizes=BATCH_SIZES)
    except EquivalenceError as error:
        if "rounding alone" not in error.what:
            raise
        progress.note(status=f"{ROUNDING}: {error.what}")
        return small
    # What the oracle lets pass as rounding is no proof that counts here.
    exact = result.error <= TOLERANCE
    status = "exact" if exact else f"{ROUNDING}: the error is {result.error:.0e}"
    progress.note(status=status, error=result.error, sensitivity=result.sensitivity)
    return small


def negative_control(gated: fx.GraphModule, small: fx.GraphModule) -> str:
    """With a removed unit open again, the comparison has to fail.

    A single unit may hardly matter, before a saturated sigmoid say. So one unit each of several
    groups is tried, and in the end one of every group at once.

    Returns:
        What was opened when the difference showed; ``not seen`` if it never did.
    """
    names = [name for name, gate in gates_of(gated).items() if not bool(gate.open().all())]
    if not names:
        return "nothing shut"
    step = max(1, len(names) // SINGLE_CONTROLS)
    for number, name in enumerate(names[::step][:SINGLE_CONTROLS]):
        if told_apart(gated, small, [name]):
            return "one unit" if number == 0 else f"one unit, try {number + 1}"
    return "a unit of every group" if told_apart(gated, small, names) else "not seen"


def told_apart(gated: fx.GraphModule, small: fx.GraphModule, names: list[str]) -> bool:
    """Whether the oracle refuses when the first shut unit of each of these gates is open again."""
    gates = gates_of(gated)
    before = {name: gates[name].mu.detach().clone() for name in names}
    for name in names:
        reopen(gates[name])
    try:
        vibfx.verify(gated, small, tolerance=TOLERANCE, batch_sizes=BATCH_SIZES[:1])
    except EquivalenceError as error:
        return "computes something else" in str(error)
    finally:
        with torch.no_grad():
            for name, means in before.items():
                gates[name].mu.copy_(means)
    return False


def reopen(gate: VIBGate) -> None:
    """Open the first unit that is shut."""
    first = int(torch.nonzero(~gate.open())[0])
    with torch.no_grad():
        gate.mu[first] = 1.0


def parity(small: fx.GraphModule, run: Callable[[], object], progress: Progress) -> None:
    """ONNX Runtime on the folded graph; a failure is noted and changes no other verdict.

    With random weights the deepest networks tell float32 from float32: these are calmed.
    """
    with progress.step("onnx", "onnx_s"):
        difference = exported(small)
        if str(difference).startswith(ParityError.__name__):
            calm(small, run)
            difference = exported(small)
        progress.note(onnx=difference)


def exported(small: fx.GraphModule) -> float | str:
    """The difference between ONNX Runtime and the folded graph, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            folded = FoldGates()(small).graph_module
            return vibfx.export_onnx(folded, Path(folder) / "model.onnx").difference
        except Exception as error:  # whatever the exporter or the runtime raises is the finding
            return f"{type(error).__name__}: {first_line(error)}"


if __name__ == "__main__":
    main()
