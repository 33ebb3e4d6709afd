import copy

import pytest
import torch
import torch_pruning as tp
import torchvision
from applied_networks import (
    assert_equal,
    assert_untouched,
    cut_by,
    moved,
    plan_keeping,
    planned,
    random_plan,
    state_of,
)
from networks import Residual, lenet
from torch import Tensor, nn

import vibfx
from vibfx.applying import applied
from vibfx.errors import EquivalenceError, PlanError

IMAGE = (3, 32, 32)


class Attention(nn.Module):
    """Heads whose number and size the class keeps in attributes, as many classes do."""

    def __init__(self, width: int = 12, heads: int = 4, size: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.inner = heads, size, heads * size
        self.classes = 4  # the same number, and not the number of heads
        self.qkv = nn.Linear(width, 3 * self.inner)
        self.proj = nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, self.inner))


class Tied(nn.Module):
    """One layer called twice, one weight under two names, a bare parameter and buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.twice = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.twice.weight
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.register_buffer("shift", torch.rand(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = x + torch.relu(self.twice(x)) + torch.tanh(self.twice(x)) + self.again(x)
        return self.head(x * self.scale + self.shift)


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.PReLU(16),
        nn.Conv2d(16, 24, 1),
        nn.GroupNorm(12, 24),
        nn.Conv2d(24, 24, 3, groups=4),
        nn.InstanceNorm2d(24, affine=True),
        nn.ConvTranspose2d(24, 8, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True, num_layers=2, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(tokens))[0][:, -1])


NETWORKS = {
    "residual": (Residual, (1, 16, 16)),
    "lenet": (lenet, (1, 28, 28)),
    "grouped": (grouped, IMAGE),
    "attention": (lambda: nn.Sequential(nn.Linear(6, 12), Attention(), nn.Linear(12, 2)), (5, 6)),
    "tied": (Tied, (5,)),
}
TORCHVISION = {
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=5), (3, 64, 64)),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), (3, 64, 64)),
}


@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_the_class_comes_back_equal_to_the_cut_graph(build, shape):
    assert_served(build, shape)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "shape"), TORCHVISION.values(), ids=TORCHVISION)
def test_so_do_networks_of_torchvision(build, shape):
    assert_served(build, shape)


def assert_served(build, shape):
    model = moved(build())
    graph, plan = planned(model, torch.randn(2, *shape))
    before = sum(p.numel() for p in model.parameters())
    kind, layers = type(model), list(model.modules())
    assert vibfx.apply(plan, model) is model
    assert type(model) is kind
    assert all(a is b for a, b in zip(layers, model.modules(), strict=True))
    assert sum(p.numel() for p in model.parameters()) < before
    assert_equal(model, cut_by(plan, graph), shape)
    assert_trains(model, torch.randn(3, *shape))


def assert_trains(model, x):
    model.train()
    result = model(x)
    result.square().mean().backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
    assert any(bool(p.grad.abs().sum() > 0) for p in model.parameters() if p.grad is not None)


def test_tokens_go_through_an_embedding_and_an_lstm():
    model, tokens = Words(), torch.randint(0, 20, (2, 7))
    graph, plan = planned(model, tokens)
    vibfx.apply(plan, model)
    assert model.lstm.hidden_size == model.lstm.weight_hh_l0.shape[1] < 6
    assert model.table.embedding_dim == model.lstm.input_size < 8
    cut = cut_by(plan, graph)
    torch.testing.assert_close(model.eval()(tokens), cut(tokens))


def test_attributes_are_those_that_torch_pruning_sets():
    """The same channels by Torch-Pruning's layer functions, on a chain, where those are right."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 2)
    )
    other = copy.deepcopy(model)
    graph = vibfx.trace(model, torch.zeros(2, 1, 5, 5))
    vibfx.apply(plan_keeping(graph, **{"0": [0, 3, 4]}), model)
    gone = [1, 2, 5]
    tp.prune_conv_out_channels(other[0], gone)
    tp.prune_batchnorm_out_channels(other[1], gone)
    tp.prune_linear_in_channels(other[4], [9 * c + i for c in gone for i in range(9)])
    assert str(model) == str(other)
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_hooks_mode_gradients_and_references_stay():
    model = Tied()
    _, plan = planned(model, torch.randn(2, 5))
    calls = []
    model.first.register_forward_hook(lambda *_: calls.append("first"))
    model.train()
    model.head.eval()
    model.first.weight.requires_grad_(False)
    model.first.weight.label = "mine"
    weight = model.first.weight
    model(torch.randn(2, 5)).sum().backward()
    gradient = model.head.weight.grad.clone()
    vibfx.apply(plan, model)
    assert model.first.weight is weight
    assert weight.label == "mine"
    assert not weight.requires_grad
    assert model.again.weight is model.twice.weight
    assert (model.training, model.head.training) == (True, False)
    kept = list(plan.parameters["head.weight"][1])
    assert torch.equal(model.head.weight.grad, gradient[:, kept])
    calls.clear()
    model(torch.randn(2, 5))
    assert calls == ["first"]


def test_examples_may_be_given_and_of_another_size():
    torch.manual_seed(0)
    model = moved(grouped())
    graph, plan = planned(model, torch.randn(2, 3, 16, 16))
    vibfx.apply(plan, model, torch.randn(2, 3, 24, 20))
    assert_equal(model, cut_by(plan, graph), (3, 32, 32))


def test_half_precision_is_kept_and_an_empty_plan_changes_nothing():
    model = Residual(4).bfloat16()
    _, plan = planned(model, torch.randn(2, 1, 8, 8).bfloat16())
    vibfx.apply(plan, model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model = Residual(4)
    before = state_of(model)
    found = vibfx.analyze(vibfx.trace(model, torch.randn(2, 1, 8, 8)))
    everything = plan_keeping(vibfx.trace(model, torch.randn(2, 1, 8, 8)))
    assert found.units == sum(len(g.kept) for g in everything.groups)
    result = applied(everything, model)
    assert result.before.parameters == result.after.parameters
    assert_untouched(before, model)


# The same plan for other weights, and for other networks.


def test_a_plan_fits_another_checkpoint():
    torch.manual_seed(0)
    _, plan = planned(Residual(4), torch.randn(2, 1, 8, 8))
    torch.manual_seed(1)
    other = moved(Residual(4))
    twin = vibfx.trace(other, torch.randn(2, 1, 8, 8))
    vibfx.apply(vibfx.PruningPlan.from_json(plan.to_json()), other)
    assert_equal(other, cut_by(plan, twin), (1, 8, 8))


def refused(plan, model, *examples, error=PlanError):
    before = state_of(model)
    with pytest.raises(error) as caught:
        vibfx.apply(plan, model, *examples)
    assert_untouched(before, model)
    return caught.value


def test_refuses_another_network_by_its_first_difference():
    _, plan = planned(Residual(4), torch.randn(2, 1, 8, 8))
    assert refused(plan, Residual(5)).where == "stem.0.weight"
    other = refused(plan, Residual(4, projection=False))
    assert "no such parameter" in other.what or "has shape" in other.what
    model = Residual(4)
    model.block1.conv1.stride = (2, 2)
    model.block1.shortcut = nn.MaxPool2d(2)
    error = refused(plan, model)
    assert "block1.conv1.weight, None, 1, 1, 1, 1) where this graph has" in error.what
    assert "in block1.conv1 " in error.where


# What the class cannot be.


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16 * 3 * 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = x.view(-1, 16 * 3 * 3)
        return self.head(x)


def test_refuses_a_size_in_the_code_by_its_line():
    model = Flat()
    _, plan = planned(model, torch.randn(2, 1, 5, 5))
    error = refused(plan, model)
    assert error.what.startswith("a size in the module's forward no longer fits: ")
    assert error.where.startswith("test_surgery.py:")
    assert error.where.endswith(": x = x.view(-1, 16 * 3 * 3)")


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.shuffle = nn.Conv2d(1, 8, 1), nn.ChannelShuffle(2)
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.shuffle(torch.relu(self.first(x)))).mean((2, 3))


def test_refuses_what_would_silently_compute_something_else():
    model = moved(Shuffled())
    graph = vibfx.trace(model, torch.randn(2, 1, 3, 3))
    error = refused(plan_keeping(graph, first=[0, 1, 2, 3, 4, 7]), model)
    assert "picked one by one" in error.what
    assert error.what.endswith("; it shows first in shuffle")
    assert "in shuffle" in error.where


def test_a_shuffle_of_which_each_part_keeps_the_same_places_is_served():
    model = moved(Shuffled())
    graph = vibfx.trace(model, torch.randn(2, 1, 3, 3))
    plan = plan_keeping(graph, first=[0, 2, 3, 4, 6, 7])
    vibfx.apply(plan, model)
    assert_equal(model, cut_by(plan, graph), (1, 3, 3))


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(4, 6), norm, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(6), nn.RMSNorm(6), Mean()], ids=["ln", "rms", "mean"]
)
def test_refuses_an_exact_norm(norm):
    model = Normed(norm)
    _, plan = planned(model, torch.randn(2, 4), norms="exact")
    error = refused(plan, model)
    assert "has to divide by their original number" in error.what
    assert "in norm" in error.where
    assert 'norms="freeze"' in error.hint


def test_refuses_a_layer_of_which_nothing_is_left():
    model = Residual(4)
    graph = vibfx.trace(model, torch.randn(2, 1, 8, 8))
    plan = plan_keeping(graph, block1_conv1=[])
    error = refused(plan, model)
    assert error.what.startswith("the plan removes all channels of a layer")
    assert error.where.startswith("block1.")


def test_refuses_heads_of_torchs_own_attention():
    model = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    _, plan = planned(model, torch.randn(2, 3, 8))
    error = refused(plan, model)
    assert "of 8 channels of the heads of an nn.MultiheadAttention" in error.what
    assert error.where == "self_attn"


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_refuses_a_part_that_only_training_runs():
    model = Auxiliary()
    _, plan = planned(model, torch.randn(2, 4))
    error = refused(plan, model)
    assert error.what.startswith("in training the module reads by aux what the plan cuts")
    assert "test_surgery.py" in error.where


def test_refuses_a_part_that_cannot_be_tried_in_training():
    model = Auxiliary()
    _, plan = planned(model, torch.randn(2, 4))
    model.aux = nn.Linear(9, 2)  # in training, nothing runs before the cut either
    error = refused(plan, model)
    assert "aux" in error.what
    assert "cannot be told" in error.what


def test_refuses_selected_inputs():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = vibfx.passes.SelectInputs()(vibfx.trace(model, torch.randn(2, 6))).graph_module
    error = refused(random_plan(graph), model)
    assert error.where == "inputs.input_1"
    assert "--gate-inputs" in error.hint


def test_refuses_what_cannot_be_told():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    _, plan = planned(model, torch.randn(2, 6))
    nn.init.zeros_(model[2].weight)
    error = refused(plan, model, error=EquivalenceError)
    assert "does not depend on its input" in error.what


def test_refuses_parametrizations_that_do_not_fit():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.utils.parametrizations.weight_norm(model[2])
    graph = vibfx.trace(model, torch.randn(2, 4))
    plan = random_plan(graph, norms="exact")
    assert plan.removed_units
    refused(plan, model)
