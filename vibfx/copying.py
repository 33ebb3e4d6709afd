"""Copies of graphs: whole ones, and ones that share the original's tensors until they are cut."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from vibfx.graph import owner_of


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that shares nothing with the original; ties between parameters stay."""
    copied = share_graph_module(module)
    own_tensors(copied, module)
    return copied


def share_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that still has the original's tensors, for a rewrite that will replace most of them.

    Nothing may write to a tensor of it before ``own_tensors``.
    """
    memo: dict[int, Any] = {id(tensor): tensor for _, tensor in _all_tensors(module)}
    for child in module.children():
        _copy_container(child, memo)
    copied = copy.deepcopy(module, memo)
    # Every graph module is the one instance of its class, and a copy's is named anew.
    type(copied).__name__ = type(module).__name__
    return copied


def own_tensors(module: fx.GraphModule, original: fx.GraphModule) -> None:
    """Give a copy tensors of its own wherever it still has the original's storage."""
    shared = {tensor.untyped_storage()._cdata for _, tensor in _all_tensors(original)}
    owned: dict[int, Tensor] = {}
    for name, tensor in list(_all_tensors(module)):
        if tensor.untyped_storage()._cdata not in shared:
            continue
        if id(tensor) not in owned:
            own = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter):
                own = nn.Parameter(own, requires_grad=tensor.requires_grad)
            owned[id(tensor)] = own
        setattr(*owner_of(module, name), owned[id(tensor)])


def _all_tensors(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers under each of their names, read or not."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _copy_container(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What deepcopy makes of a plain container of shared tensors, without its dozen hook tables."""
    if type(module) is not nn.Module:
        return copy.deepcopy(module, memo)
    copied = nn.Module().train(module.training)
    copied._parameters.update(module._parameters)
    copied._buffers.update(module._buffers)
    copied._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
    for name, child in module._modules.items():
        copied._modules[name] = None if child is None else _copy_container(child, memo)
    memo[id(module)] = copied
    return copied
