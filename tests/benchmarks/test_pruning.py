"""Torch-Pruning, driven to a budget: what goes first, how far, and what it is kept from."""

import copy

import pytest
import torch
import torch_pruning as tp
from pruning import CLOSE, IMPORTANCES, _Cost, partly_reached, prune, sum_gradients
from torch import nn
from zoo.baseline import makers_of_output

import vibfx
from vibfx.errors import TargetError

X = torch.randn(2, 3, 8, 8)


def network():
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)),
    )
    for norm in (model[1], model[6]):  # as after training: no two channels alike
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model.eval()


class Padded(nn.Module):
    """A shortcut that gives its channels new numbers, beside two layers that nothing pads."""

    def __init__(self, pad):
        super().__init__()
        self.pad = pad
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 60, 3, padding=1)
        self.last = nn.Conv2d(60, 8 + 2 * pad, 3, padding=1)
        self.head = nn.Linear(8 + 2 * pad, 5)

    def forward(self, x):
        x = self.first(x).relu()
        y = self.last(self.inner(x).relu())
        padded = nn.functional.pad(x, (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return self.head((y + padded).mean((2, 3)))


def loader(batches=12):
    generator = torch.Generator().manual_seed(0)
    shapes = [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(batches)]
    return [(x, torch.randint(5, (4,), generator=generator)) for x in shapes]


def flops(model):
    return vibfx.measure(vibfx.trace(model, X)).flops


@pytest.mark.parametrize("method", IMPORTANCES)
def test_lands_on_the_budget_and_still_runs(method):
    model, share = network(), 0.4
    full = flops(model)
    prune(model, method, share, X, loader())
    assert CLOSE * share <= flops(model) / full <= share
    assert model(X).shape == (2, 5)  # the layer that makes the output stays


@pytest.mark.parametrize("method", ["magnitude", "group norm"])
def test_the_least_channels_go_first(method):
    model = network()
    small = [1, 4, 5, 9, 20]
    with torch.no_grad():
        model[5].weight[small] *= 1e-3
        model[10].weight[:, small] *= 1e-3
        model[6].weight[small] *= 1e-3
    prune(model, method, 0.8, X, loader())
    assert float(model[5].weight.detach().flatten(1).norm(dim=1).min()) > 0.1
    assert model[5].out_channels <= 64 - len(small)


@pytest.mark.parametrize(("method", "goes"), [("Taylor", True), ("magnitude", False)])
def test_taylor_ranks_by_the_loss_and_not_by_size(method, goes):
    model, mark = network(), 5.0
    with torch.no_grad():  # the largest channel of all, and nothing of it reaches the output
        model[5].weight[7] *= 10
        model[6].bias[7] = mark
        model[10].weight[:, 7] = 0
    prune(model, method, 0.9, X, loader())
    assert (mark not in model[6].bias.tolist()) == goes
    assert all(p.grad is None for p in model.parameters())


def test_gradients_are_sums_over_a_few_batches():
    model, batches = network(), loader()
    sum_gradients(model, batches)
    expected = copy.deepcopy(model)
    expected.zero_grad()
    losses = [nn.functional.cross_entropy(expected(x), y) for x, y in batches[:10]]
    sum(losses).backward()
    assert torch.allclose(model[0].weight.grad, expected[0].weight.grad, atol=1e-5)


@pytest.mark.parametrize(("pad", "names"), [(0, set()), (4, {"first", "last"})])
def test_layers_behind_a_padded_shortcut_are_left_alone(pad, names):
    model = Padded(pad).eval()
    head = makers_of_output(model, X)
    found = {name for name, m in model.named_modules() if m in partly_reached(model, X, head)}
    assert found == names
    prune(model, "group norm", 0.6, X, loader())
    assert (model.first.out_channels == 8) == bool(pad)
    assert model.inner.out_channels < 60


def test_the_cost_is_foreseen_exactly():
    model = network()
    cost = _Cost(model, X)
    full = flops(model)
    graph = tp.DependencyGraph().build_dependency(model, X)
    for layer, channels in ((model[0], [2, 3]), (model[5], [0, 5, 6])):
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, channels)
        foreseen = cost.share_without(group, graph)
        assert foreseen < cost.share()
        group.prune()
        assert foreseen == pytest.approx(cost.share())
        assert cost.share() == pytest.approx(flops(model) / full)


def test_where_no_channel_fits_a_large_one_goes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    prune(model, "random", 0.6, X, loader())
    assert model[0].out_channels == 2  # a half, where three quarters would be too much


def test_a_budget_that_no_ranking_meets_is_refused():
    with pytest.raises(TargetError, match=r"its ranking ends at \d"):
        prune(network(), "random", 0.001, X, loader())
