"""Networks, plans for them, and what it means that a plan was applied to the network itself."""

import copy

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.graph import to_dtype
from vibfx.passes import PruneChannels
from vibfx.planning import PruningPlan, plan_units


def random_plan(graph: fx.GraphModule, seed: int = 0, norms: str = "freeze") -> PruningPlan:
    """About half of the units of each group, and at least one."""
    found = vibfx.analyze(graph, norms=norms)
    generator = np.random.default_rng(seed)
    keep = generator.random(found.units) < 0.5
    for group in found.groups:
        if not keep[group.units].any():
            keep[group.start + generator.integers(group.size)] = True
    return plan_units(graph, found, keep)


def planned(model: nn.Module, *inputs: Tensor, seed: int = 0, norms: str = "freeze"):
    """A traced model, and a plan for it."""
    graph = vibfx.trace(model, inputs)
    return graph, random_plan(graph, seed, norms)


def plan_keeping(graph: fx.GraphModule, **kept) -> PruningPlan:
    """A plan that keeps these units of the groups of these names, and all others."""
    found = vibfx.analyze(graph)
    keep = np.ones(found.units, dtype=bool)
    for group in found.groups:
        name = group.name.replace(".", "_")
        if name in kept:
            keep[group.units] = np.isin(np.arange(group.size), kept.pop(name))
    assert not kept
    return plan_units(graph, found, keep)


def assert_equal(module: nn.Module, graph: fx.GraphModule, *shapes) -> None:
    """A module and a graph compute the same on inputs of these shapes, in evaluation."""
    twin = copy.deepcopy(module).double().eval()
    reference = to_dtype(copy_graph_module(graph), torch.float64)
    generator = torch.Generator().manual_seed(7)
    for batch in (2, 5):
        inputs = [torch.randn(batch, *s, generator=generator, dtype=torch.float64) for s in shapes]
        with torch.no_grad():
            own, expected = (pytree.tree_leaves(run(*inputs)) for run in (twin, reference))
        for a, b in zip(own, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
            assert float(b.std()) > 1e-4


def state_of(module: nn.Module) -> dict[str, object]:
    """Everything of a module that applying a plan could change."""
    numbers = {
        f"{path}.{name}": value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, (int, tuple))
    }
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    return {"numbers": numbers, "tensors": tensors, "ids": [id(p) for p in module.parameters()]}


def assert_untouched(before: dict[str, object], module: nn.Module) -> None:
    after = state_of(module)
    assert before["numbers"] == after["numbers"]
    assert before["ids"] == after["ids"]
    assert before["tensors"].keys() == after["tensors"].keys()
    for name, value in before["tensors"].items():
        assert torch.equal(value, after["tensors"][name]), name


def cut_by(plan: PruningPlan, graph: fx.GraphModule) -> fx.GraphModule:
    return PruneChannels(plan)(graph).graph_module


def moved(model: nn.Module) -> nn.Module:
    """Biases, norms and their statistics away from their trivial start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return model
