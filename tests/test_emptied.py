"""What is left of a graph from which whole groups go: constants in the place of blocks."""

import pytest
import torch
from networks import Residual, gated, randomize, traced
from small_graphs import Calls, set_gate, targets
from torch import Tensor, nn

import vibfx
from vibfx.errors import PlanError
from vibfx.gates import gates_of
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels, SetMode
from vibfx.planning import PruningPlan

aten = torch.ops.aten


def prepared(model, shape, *empty):
    """A gated graph in float64, so that constants are exact; all units of some gates shut."""
    module = gated(traced(model.eval(), shape))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.mu.uniform_(0.5, 1.5, generator=generator)
    for name in empty:
        set_gate(module, f"gates.{name}", [0.0] * gates_of(module)[f"gates.{name}"].units)
    randomize(module, shape)
    return to_dtype(module, torch.float64)


def without(module, *layers):
    """The graph cut and folded, proved; nothing of these layers is left."""
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    folded = FoldGates()(small).graph_module
    for result in (small, folded):
        found = vibfx.verify(module, result, batch_sizes=(1, 2, 7), tolerance=1e-12)
        assert found.sensitivity > 1e-3
        left = [name for name, _ in result.named_parameters()]
        assert not [name for name in left if name.startswith(layers)]
        assert not [n for n in result.graph.nodes if n.op == "get_attr" and not n.users]
    assert not gates_of(folded)
    return folded


def constants(module):
    return {n: p.detach() for n, p in module.named_parameters() if n.endswith("_constant")}


class Block(nn.Module):
    """``x + bn(conv(relu(bn(conv(x)))))`` between a stem and a head."""

    def __init__(self, *, bias=False, norm=True):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.a, self.na = nn.Conv2d(4, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 4, 3, padding=1, bias=bias)
        self.nb = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.nb(self.b(torch.relu(self.na(self.a(x))))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_leaves_what_its_norm_makes_of_nothing(bias):
    module = prepared(Block(bias=bias), (1, 6, 6), "a")
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    (constant,) = constants(small).values()
    norm = {key: module.state_dict()[f"nb.{key}"] for key in ("weight", "bias")}
    mean, variance = (module.get_buffer(f"nb.running_{part}") for part in ("mean", "var"))
    start = module.get_parameter("b.bias") if bias else torch.zeros(4, dtype=torch.float64)
    expected = (start - mean) / (variance + 1e-5).sqrt() * norm["weight"] + norm["bias"]
    assert torch.allclose(constant.flatten(), expected, rtol=1e-12, atol=1e-14)
    assert constant.shape == (1, 4, 1, 1)
    folded = without(module, "a.", "na.", "b.", "nb.")
    assert targets(folded).count("aten.conv2d.default") == 1
    assert "aten.batch_norm.default" not in targets(folded)


def test_a_block_without_a_norm_leaves_its_bias():
    module = prepared(Block(bias=True, norm=False), (1, 6, 6), "a")
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    (constant,) = constants(small).values()
    assert torch.equal(constant.flatten(), module.get_parameter("b.bias"))
    without(module, "a.", "na.", "b.")


def test_the_constant_goes_with_the_channels_that_go():
    """A channel of the residual stream is shut too: the constant is as wide as what is left."""
    module = prepared(Block(), (1, 6, 6), "a")
    with torch.no_grad():
        gates_of(module)["gates.stem"].mu[1] = 0.0
    (constant,) = constants(without(module, "a.", "b.")).values()
    assert constant.shape == (1, 3, 1, 1)


def test_every_block_of_a_residual_network_may_go():
    module = prepared(Residual(4), (1, 8, 8), "block1_conv1", "block2_conv1")
    folded = without(module, "block1.", "block2.conv", "block2.bn")
    assert len(constants(folded)) == 2
    assert targets(folded).count("aten.conv2d.default") == 2  # the stem and the projection


def test_the_constant_is_trained_in_the_place_of_the_bias():
    folded = without(prepared(Block(), (1, 6, 6), "a"), "a.")
    to_dtype(folded, torch.float32)
    SetMode(training=True)(folded)
    folded(torch.randn(5, 1, 6, 6)).square().sum().backward()
    (name,) = constants(folded)
    assert folded.get_parameter(name).grad.abs().max() > 0
    assert all(p.grad is not None for p in folded.parameters())


def test_a_gated_graph_trains_on_after_the_cut():
    module = prepared(Residual(4), (1, 8, 8), "block1_conv1")
    small = to_dtype(PruneChannels(vibfx.plan(module))(module).graph_module, torch.float32)
    SetMode(training=True)(small)
    small(torch.randn(5, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    assert all(gate.mu.grad.abs().max() > 0 for gate in gates_of(small).values())


def test_a_second_round_cuts_through_the_constant():
    module = prepared(Block(), (1, 6, 6), "a")
    first = PruneChannels(vibfx.plan(module))(module).graph_module
    set_gate(first, "gates.stem", [1.0, 0.0, 1.0, 0.0])
    second = PruneChannels(vibfx.plan(first))(first).graph_module
    assert next(iter(constants(second).values())).shape == (1, 2, 1, 1)
    assert vibfx.verify(first, second, tolerance=1e-12).sensitivity > 1e-3


def test_onnx_runtime_agrees(tmp_path):
    folded = without(prepared(Residual(4), (1, 8, 8), "block1_conv1"), "block1.")
    to_dtype(folded, torch.float32)
    assert vibfx.export_onnx(folded, tmp_path / "small.onnx").difference < 1e-5


# --- other ways to lose everything --------------------------------------------------------------


def squeeze_and_excite(net, x):
    y = torch.relu(net.stem(x))
    scale = torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3), keepdim=True)))))
    return net.head((y * scale).mean((2, 3)))


def test_dropout_in_an_emptied_block_goes_with_it():
    def forward(net, x):
        y = torch.relu(net.stem(x))
        inner = nn.functional.dropout(torch.relu(net.a(y)), 0.1, training=net.training)
        return net.head(y + nn.functional.dropout(net.b(inner), 0.1, training=net.training))

    parts = {"stem": (3, 4), "a": (4, 5), "b": (5, 4), "head": (4, 2)}
    model = Calls(forward, **{name: nn.Linear(*sizes) for name, sizes in parts.items()})
    folded = without(prepared(model, (3,), "a"), "a.", "b.")
    assert targets(folded).count("aten.dropout.default") == 1  # on the constant, behind its gate


def test_a_squeeze_leaves_one_scale_a_channel():
    model = Calls(
        squeeze_and_excite,
        stem=nn.Conv2d(1, 4, 3),
        down=nn.Conv2d(4, 2, 1),
        up=nn.Conv2d(2, 4, 1),
        head=nn.Linear(4, 3),
    )
    module = prepared(model, (1, 6, 6), "down")
    (constant,) = constants(without(module, "down.", "up.")).values()
    expected = torch.sigmoid(module.get_parameter("up.bias"))
    assert torch.allclose(constant.flatten(), expected, rtol=1e-12)


def test_a_branch_of_a_concatenation_goes_from_it():
    def forward(net, x):
        parts = [torch.tanh(net.a(x)), torch.tanh(net.b(x)), torch.tanh(net.c(x))]
        return net.head(torch.cat(parts, 1))

    parts = {name: nn.Linear(3, 4) for name in "abc"}
    module = prepared(Calls(forward, **parts, head=nn.Linear(12, 2)), (3,), "b")
    folded = without(module, "b.")
    (cat,) = folded.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert len(cat.args[0]) == 2
    assert not constants(folded)


class Attention(nn.Module):
    """``x + proj(attention(norm(x)))`` with two heads of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.proj, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x)
        heads = [f(y).view(-1, 5, 2, 3).transpose(1, 2) for f in (self.q, self.k, self.v)]
        y = nn.functional.scaled_dot_product_attention(*heads)
        return self.head((x + self.proj(y.transpose(1, 2).reshape(-1, 5, 6))).mean(1))


def test_an_attention_without_heads_leaves_the_bias_of_its_projection():
    probe = gated(traced(Attention().eval(), (5, 3)))
    inner = [name.removeprefix("gates.") for name in gates_of(probe) if "stem" not in name]
    module = prepared(Attention(), (5, 3), *inner)
    folded = without(module, "q.", "k.", "v.", "norm.")
    assert "aten.scaled_dot_product_attention.default" not in targets(folded)
    (constant,) = constants(PruneChannels(vibfx.plan(module))(module).graph_module).values()
    assert torch.equal(constant.flatten(), module.get_parameter("proj.bias"))


def test_layers_behind_an_emptied_one_work_on_its_constant():
    """Padding makes the borders differ, so that the second convolution stays."""

    def forward(net, x):
        y = torch.relu(net.stem(x))
        z = net.c(torch.relu(net.b(torch.relu(net.a(y)))))
        return net.head((y + z).mean((2, 3)))

    model = Calls(
        forward,
        stem=nn.Conv2d(1, 4, 3),
        a=nn.Conv2d(4, 3, 1),
        b=nn.Conv2d(3, 5, 1),
        c=nn.Conv2d(5, 4, 3, padding=1),
        head=nn.Linear(4, 3),
    )
    folded = without(prepared(model, (1, 6, 6), "a"), "a.", "b.weight")
    assert folded.get_parameter("c.weight").shape == (4, 5, 3, 3)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_along_a_row_gets_all_of_the_row(norm):
    """The constant is the same along it, and so far of size 1."""

    def forward(net, x):
        y = torch.relu(net.stem(x))
        z = net.norm(net.b(torch.relu(net.a(y))))
        return net.head((y + z).flatten(1))

    model = Calls(
        forward,
        stem=nn.Conv2d(1, 2, 1),
        a=nn.Conv2d(2, 3, 1),
        b=nn.Conv2d(3, 2, 1),
        norm=norm(6),
        head=nn.Linear(2 * 36, 3),
    )
    without(prepared(model, (1, 6, 6), "a"), "a.", "b.weight")


# --- refusals -----------------------------------------------------------------------------------


def all_of(module, *names):
    """The plan that empties groups, whatever becomes of the graph."""
    coupling = vibfx.analyze(module)
    gone = [g for g in coupling.groups if g.name in names]
    parameters, shapes = {}, {}
    for group in gone:
        for slot in group.slots:
            parameters.setdefault(slot.parameter, {})[slot.dim] = ()
            shapes[slot.parameter] = tuple(module.state_dict()[slot.parameter].shape)
    return PruningPlan(parameters, shapes, ())


def test_refuses_a_plan_that_leaves_no_way_through():
    graph = traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    with pytest.raises(PlanError, match="no way from the model's input to its output"):
        PruneChannels(all_of(graph, "0"))(graph)


def test_refuses_a_plan_of_which_an_op_has_nothing_left():
    """A sum over channels is no layer, whose bias would be left."""

    def forward(net, x):
        return net.head(x + torch.tanh(net.a(x)).sum(1, keepdim=True))

    graph = traced(Calls(forward, a=nn.Linear(3, 4), head=nn.Linear(3, 2)), (3,))
    with pytest.raises(PlanError, match="leaves nothing of what") as caught:
        PruneChannels(all_of(graph, "a"))(graph)
    assert "Keep at least one unit" in caught.value.hint
