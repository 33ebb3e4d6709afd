"""Computing activations again instead of keeping them."""

import copy

import torch
from networks import gated, traced
from torch import nn

from vibfx.passes import SetMode
from vibfx.training.recompute import recomputed


def deep(blocks=12, width=16):
    torch.manual_seed(0)
    layers = [nn.Linear(8, width)]
    for _ in range(blocks):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)]
    module = gated(traced(nn.Sequential(*layers, nn.Linear(width, 3)), (8,)))
    SetMode(training=True)(module)
    return module


def kept(run, x):
    """Elements of the tensors that a forward pass keeps, parameters not counted."""
    parameters = {p.data_ptr() for p in run.parameters()}
    sizes = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run(x)
    return sum(sizes.values()), output


def test_gradients_statistics_and_noise_are_the_same():
    module, x = deep(), torch.randn(32, 8)
    other = copy.deepcopy(module)
    outputs = []
    for run in (module, recomputed(other)):
        torch.manual_seed(1)
        outputs.append(run(x))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    for (name, a), b in zip(module.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(module.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b), name
    fresh = dict(deep().named_buffers())
    assert not all(torch.equal(a, fresh[name]) for name, a in module.named_buffers())


def test_it_keeps_far_less():
    module, x = deep(), torch.randn(256, 8)
    whole, _ = kept(module, x)
    parts, _ = kept(recomputed(module), x)
    assert parts < 0.5 * whole


def test_the_parameters_are_the_graphs_own():
    module = deep()
    assert {id(p) for p in recomputed(module).parameters()} == {id(p) for p in module.parameters()}
