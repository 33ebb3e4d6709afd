"""Copies of graphs: whole ones, and ones that share the original's tensors until they are cut."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from vibfx.graph import owner_of

# Where a graph that was shrunk in training notes what it is left of. That holds for the graph
# itself, not for what a pass makes of it.
WHOLE = "vibfx_whole"


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that shares nothing with the original; ties between parameters stay."""
    copied = share_graph_module(module)
    own_tensors(copied, module)
    copied.recompile()
    return copied


def share_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that still has the original's tensors, for a rewrite that will replace most of them.

    Nothing may write to a tensor of it before ``own_tensors``, nor run it before ``recompile``:
    code for a graph that is about to be changed is not made.
    """
    memo: dict[int, Any] = {id(tensor): tensor for _, tensor in each_tensor(module)}
    copied = fx.GraphModule(nn.Module(), fx.Graph(), type(module).__name__)
    _copy_contents(module, copied, memo)
    kept = {key: value for key, value in module.meta.items() if key != WHOLE}
    copied.meta = copy.deepcopy(kept, memo)
    copied._graph = copy.deepcopy(module.graph, memo)  # the public way makes the code at once
    copied._graph.owning_module = copied
    return copied


def own_tensors(module: fx.GraphModule, original: fx.GraphModule) -> None:
    """Give a copy tensors of its own wherever it still has the original's storage."""
    shared = {tensor.untyped_storage()._cdata for _, tensor in each_tensor(original)}
    owned: dict[int, Tensor] = {}
    for name, tensor in list(each_tensor(module)):
        if tensor.untyped_storage()._cdata not in shared:
            continue
        if id(tensor) not in owned:
            own = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                own = nn.Parameter(own, requires_grad=tensor.requires_grad)
            owned[id(tensor)] = own
        setattr(*owner_of(module, name), owned[id(tensor)])


def each_tensor(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers under each of their names, read or not."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _copy_contents(module: nn.Module, copied: nn.Module, memo: dict[int, Any]) -> None:
    """Tensors as they are, plain containers anew: deepcopy would walk through their hook tables."""
    copied.train(module.training)
    copied._parameters.update(module._parameters)
    copied._buffers.update(module._buffers)
    copied._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
    for name, child in module._modules.items():
        if type(child) is nn.Module:
            copied._modules[name] = container = nn.Module()
            _copy_contents(child, container, memo)
        else:
            copied._modules[name] = copy.deepcopy(child, memo)
