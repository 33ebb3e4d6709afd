"""The control of a compression: the network that was found, with new weights."""

import math

import torch
from torch import fx, nn

from vibfx.copying import copy_graph_module


def from_scratch(found: fx.GraphModule, seed: int) -> fx.GraphModule:
    """A copy of a graph with fresh weights, as torch's layers have them at first.

    Args:
        found: A graph without gates.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    fresh = copy_graph_module(found)
    for name, buffer in fresh.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
        elif name.endswith("running_var"):
            buffer.fill_(1.0)
    parameters = dict(fresh.named_parameters())
    for name, parameter in parameters.items():
        layer = parameters.get(name.removesuffix("bias") + "weight")
        with torch.no_grad():
            if parameter.dim() > 1:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
            elif name.endswith("bias") and layer is not None and layer.dim() > 1:
                bound = 1 / math.sqrt(layer[0].numel())
                nn.init.uniform_(parameter, -bound, bound)
            else:  # of a norm
                parameter.fill_(float(name.endswith("weight")))
    return fresh
