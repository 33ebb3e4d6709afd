"""Units that are shut for good leave a graph in training, which goes on as if they were there."""

import copy

import pytest
import torch
from networks import Residual, gated, shut_half, traced
from small_graphs import Calls
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import vibfx
from vibfx.errors import PlanError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.passes import PruneChannels, SelectInputs, SetMode
from vibfx.training import shrink, unshrink
from vibfx.training.shrinking import alive, whole_of


class Attention(nn.Module):
    """Two heads over six tokens, a layer norm before and behind, an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(8), nn.LayerNorm(8)
        self.embed = nn.Linear(4, 8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(self.before(x)).view(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(-1, 6, 8))
        x = x + self.mlp(self.behind(x))
        return self.head(x.mean(1))


def grouped():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.GroupNorm(6, 12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.PReLU(8),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.Flatten(),
        nn.Linear(12 * 4, 3),
    )


def tied():
    return Calls(
        lambda net, x: net.out(torch.relu(net.a(torch.relu(net.a(net.first(x)))))),
        first=nn.Linear(6, 8),
        a=nn.Linear(8, 8),
        out=nn.Linear(8, 3),
    )


NETWORKS = {
    "residual": (lambda: Residual(6, classes=3), (1, 8, 8)),
    "grouped": (grouped, (1, 8, 8)),
    "attention": (Attention, (6, 4)),
    "tied": (tied, (6,)),
    "lstm": (
        lambda: Calls(
            lambda n, x: n.b(n.a(x)[0][:, -1]), a=nn.LSTM(3, 6, batch_first=True), b=nn.Linear(6, 3)
        ),
        (5, 3),
    ),
    "inputs": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)),
        (1, 4, 4),
    ),
}
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=1e-2),
}


def in_training(name="residual"):
    """A gated graph in float64 that draws no noise to speak of, and its input."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    graph = traced(build().eval(), shape)
    if name == "inputs":
        graph = SelectInputs()(graph).graph_module
    module = to_dtype(gated(graph), torch.float64)
    SetMode(training=True)(module)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.log_sigma2.fill_(-80.0)
    x = torch.randn(7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return module, x


def step(module, optimizer, x):
    """One step of gradient descent; the loss before it."""
    optimizer.zero_grad()
    loss = F.cross_entropy(module(x), torch.arange(len(x)) % 3) + 1e-4 * vibfx.information(module)
    loss.backward()
    optimizer.step()
    return float(loss)


def assert_same_tensors(small, full):
    """Every tensor has what is left of the full graph's."""
    expected = {n: t.detach() for n, t in full.state_dict().items() if t.is_floating_point()}
    for (name, dim), indices in whole_of(small).indices().items():
        if name in expected:
            expected[name] = expected[name].index_select(dim, indices)
    found = {n: t for n, t in small.state_dict().items() if n in expected}
    assert len(found) >= len(list(small.parameters()))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_next_step_is_that_of_the_whole_graph_with_the_units_shut(name, build):
    module, x = in_training(name)
    optimizer = build(module.parameters())
    step(module, optimizer, x)  # so that there are moments to carry over
    for share in (0.4, 0.7):
        shut_half(module, share=share)
        other = copy.deepcopy(module)
        reference = build(other.parameters())
        reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = sum(p.numel() for p in module.parameters())
        assert shrink(module, optimizer)
        assert sum(p.numel() for p in module.parameters()) < before
        assert step(module, optimizer, x) == pytest.approx(step(other, reference, x), abs=1e-12)
        # Adafactor takes means over rows and columns, of which those that went were part.
        if share == 0.4 and build is not OPTIMIZERS["adafactor"]:
            assert_same_tensors(module, other)
    assert optimizer.param_groups[0]["params"] == list(module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_graph_comes_back_and_knows_what_has_to_go(name):
    module, x = in_training(name)
    shapes = {n: p.shape for n, p in module.named_parameters()}
    shut_half(module)
    expected = vibfx.plan(module)
    assert shrink(module)
    SetMode(training=False)(module)
    before = module(x)
    unshrink(module)
    assert {n: p.shape for n, p in module.named_parameters()} == shapes
    torch.testing.assert_close(module(x), before, rtol=1e-9, atol=1e-10)
    found = vibfx.plan(module)
    assert found.parameters == expected.parameters
    small = PruneChannels(found)(module).graph_module
    torch.testing.assert_close(small(x), before, rtol=1e-9, atol=1e-10)


def test_a_selection_of_inputs_is_cut_by_all_that_has_gone_and_comes_back_whole():
    module, x = in_training("inputs")
    for share in (0.4, 0.7):
        shut_half(module, share=share)
        assert shrink(module)
        group = next(g for g in whole_of(module).coupling.groups if g.name == "inputs.input_1")
        left = whole_of(module).keep[group.units].nonzero()[0].tolist()
        assert module.get_buffer("inputs.input_1").tolist() == left
        assert module.get_parameter("1.weight").shape[1] == len(left) < 16
    module(x).sum().backward()
    unshrink(module)
    assert module.get_buffer("inputs.input_1").tolist() == list(range(16))


def test_a_group_keeps_its_best_unit_while_it_is_trained():
    module, x = in_training()
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu.zero_()
            gate.mu[2] = 1e-30  # shut for good, and better than the rest
    assert shrink(module)
    assert [gate.units for gate in gates_of(module).values()] == [1] * len(gates_of(module))
    keep = whole_of(module).keep
    assert [keep[g.units].nonzero()[0].tolist() for g in whole_of(module).coupling.groups] == [
        [2]
    ] * len(whole_of(module).coupling.groups)
    assert not shrink(module)
    module(x).sum().backward()


def test_units_within_the_margin_stay():
    module, _ = in_training()
    gates = list(gates_of(module).values())
    with torch.no_grad():
        for gate in gates:
            gate.mu.fill_(1.0)
            gate.log_sigma2.fill_(2.0)
            gate.log_sigma2[1] = 4.0
    assert not shrink(module, margin=5.0)
    assert alive(module).sum() == alive(module, margin=5.0).sum() - len(gates)
    assert shrink(module)
    assert all(gate.open().sum() == 0 for gate in gates)


def test_gates_stay_the_same_objects_and_frozen_parameters_stay_frozen():
    module, x = in_training()
    frozen = [n for n, p in module.named_parameters() if n.endswith("bn1.weight")]
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    gates = gates_of(module)
    shut_half(module)
    assert shrink(module)
    assert all(gates[name] is gate for name, gate in gates_of(module).items())
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == frozen
    module(x).sum().backward()
    unshrink(module)
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == frozen


def test_a_gradient_at_hand_is_cut_and_buffers_go_on():
    module, x = in_training()
    shut_half(module)
    module(x).square().sum().backward()
    full = {n: p.grad.clone() for n, p in module.named_parameters()}
    running = {n: b.clone() for n, b in module.named_buffers() if "running" in n}
    assert shrink(module)
    for (name, dim), kept in whole_of(module).indices().items():
        table = full if name in full else running
        table[name] = table[name].index_select(dim, kept)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, full[name]), name
    for name, buffer in module.named_buffers():
        assert "running" not in name or torch.equal(buffer, running[name]), name


def test_an_average_of_the_weights_follows():
    module, x = in_training()
    average = AveragedModel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    step(module, optimizer, x)
    average.update_parameters(module)
    shut_half(module)
    with torch.no_grad():
        for mine, other in zip(gates_of(module).values(), gates_of(average.module).values()):  # noqa: B905
            other.mu.copy_(mine.mu)
    expected = average(x)
    assert shrink(module, optimizer, copies=[average.module])
    torch.testing.assert_close(average(x), expected, rtol=1e-9, atol=1e-10)
    step(module, optimizer, x)
    average.update_parameters(module)
    unshrink(average.module)
    assert average(x).shape == expected.shape


def test_a_copy_of_a_shrunk_graph_is_shrunk_on_and_comes_back_too():
    module, x = in_training()
    shut_half(module)
    assert shrink(module)
    other = copy.deepcopy(module)
    shut_half(other, share=0.7)
    assert shrink(other)
    assert whole_of(other).keep.sum() < whole_of(module).keep.sum()
    unshrink(other)
    unshrink(module)
    assert other(x).shape == module(x).shape
    assert [p.shape for p in other.parameters()] == [p.shape for p in module.parameters()]


def test_a_shrunk_graph_is_not_pickled_without_what_it_is_left_of(tmp_path):
    module, _ = in_training()
    shut_half(module)
    assert shrink(module)
    with pytest.raises(PlanError, match="shrunk for training cannot be pickled"):
        torch.save(module, tmp_path / "model.pt")
    unshrink(module)
    torch.save(module, tmp_path / "model.pt")


def test_what_a_pass_makes_of_a_shrunk_graph_is_a_graph_of_its_own():
    module, _ = in_training()
    shut_half(module)
    assert shrink(module)
    shut_half(module, seed=1)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert whole_of(small).keep.all()
    assert not whole_of(module).keep.all()


def test_state_of_another_shape_is_refused_and_nothing_is_changed():
    module, x = in_training()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    step(module, optimizer, x)
    first = optimizer.param_groups[0]["params"][0]
    optimizer.state[first]["sketch"] = torch.zeros(5, 5, 5)
    shut_half(module)
    shapes = {n: p.shape for n, p in module.named_parameters()}
    with pytest.raises(PlanError, match="'sketch' of shape"):
        shrink(module, optimizer)
    assert {n: p.shape for n, p in module.named_parameters()} == shapes
    assert optimizer.param_groups[0]["params"][0] is first
    del optimizer.state[first]["sketch"]
    assert shrink(module, optimizer)


def test_a_graph_without_gates_is_refused_and_an_untouched_one_stays():
    graph = traced(Residual(4).eval(), (1, 8, 8))
    with pytest.raises(PlanError, match="no gates"):
        shrink(graph)
    module, x = in_training()
    before = module(x)
    unshrink(module)
    assert torch.equal(module(x), before)
    assert not shrink(module)
