import operator

import pytest
import torch
from networks import Residual, gated, traced
from small_graphs import Calls, Dense, Plain, assert_shares_no_memory, outputs, targets
from torch import nn
from torch.export import Dim

import vibfx
from vibfx.errors import TraceError
from vibfx.graph import check_graph, module_path, shape_of, source_line
from vibfx.passes import SetMode


def model_of(forward, **parts):
    torch.manual_seed(0)
    return Calls(forward, layer=nn.Linear(3, 4), **parts).eval()


def refusal(model, inputs):
    with pytest.raises(TraceError) as caught:
        vibfx.trace(model, inputs)
    return caught.value


@pytest.mark.parametrize("build", [Plain, Dense, lambda: Residual(2)])
def test_computes_what_the_model_computes_for_any_batch_size(build):
    torch.manual_seed(0)
    model = build().eval()
    graph = traced(model, (1, 4, 4))
    check_graph(graph)
    for batch in (1, 2, 7):
        expected = outputs(model, (1, 4, 4), batch)
        assert expected.shape[0] == batch
        assert torch.equal(outputs(graph, (1, 4, 4), batch), expected)


def test_an_example_batch_of_one_leaves_the_batch_dynamic():
    torch.manual_seed(0)
    model = Plain().eval()
    graph = vibfx.trace(model, torch.ones(1, 1, 5, 5))
    for batch in (1, 2, 7):
        assert torch.equal(outputs(graph, (1, 5, 5), batch), outputs(model, (1, 5, 5), batch))
    size = graph.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    assert isinstance(size, torch.SymInt)


def test_parameters_and_buffers_keep_names_and_values():
    torch.manual_seed(0)
    model = Residual(2)
    graph = traced(model, (1, 4, 4))
    own = dict(model.named_parameters())
    assert dict(graph.named_parameters()).keys() == own.keys()
    for name, value in graph.named_parameters():
        assert torch.equal(value, own[name]), name
        assert value.requires_grad
    assert graph.state_dict().keys() == model.state_dict().keys()


def test_the_graph_shares_nothing_with_the_model():
    torch.manual_seed(0)
    model = Plain()
    graph = traced(model, (1, 5, 5))
    assert_shares_no_memory(model, graph)


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = Plain().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}
    graph = traced(model, (1, 5, 5))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not graph.training


def test_the_models_mode_comes_back_after_a_failure():
    model = model_of(lambda s, x: s.layer(x)).train()
    refusal(model, torch.ones(2, 7))
    assert all(module.training for module in model.modules())


def test_a_model_in_training_mode_is_captured_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    graph = traced(model, (3,))
    assert torch.equal(outputs(graph, (3,)), outputs(model.eval(), (3,)))


@pytest.mark.parametrize("training", [True, False])
def test_a_program_is_captured_in_evaluation_mode_however_it_was_exported(training):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 2),
    )
    model = nn.Sequential(*layers).train(training)
    program = torch.export.export(
        model, (torch.randn(2, 1, 5, 5),), dynamic_shapes=({0: Dim.AUTO},)
    )
    graph = traced(program.module(), (1, 5, 5))
    assert torch.equal(outputs(graph, (1, 5, 5)), outputs(model.eval(), (1, 5, 5)))
    SetMode(training=True)(graph)
    assert not torch.equal(outputs(graph, (1, 5, 5)), outputs(graph, (1, 5, 5)))


def test_nodes_keep_their_origin():
    graph = traced(Plain(), (1, 5, 5))
    calls = {n.name: n for n in graph.graph.nodes if n.op == "call_function"}
    assert {name: module_path(n) for name, n in calls.items()} == {
        "conv2d": "conv",
        "batch_norm": "norm",
        "relu": "",
        "mean": "",
        "linear": "head",
    }
    for node in calls.values():
        assert node.meta["nn_module_stack"]
        assert node.meta["stack_trace"]
    assert source_line(calls["mean"]).startswith("small_graphs.py:")


def test_the_graph_is_named_after_the_model():
    graph = traced(Plain(), (1, 5, 5))
    assert type(graph).__name__ == "Plain"
    assert type(gated(graph)).__name__ == "Plain"


def test_autocast_and_no_grad_regions_are_inlined():
    def forward(self, x):
        with torch.no_grad():
            y = self.layer(x)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
                y = self.act(y) * 2
        return self.head(y)

    model = model_of(forward, act=nn.SiLU(), head=nn.Linear(4, 2))
    graph = traced(model, (3,))
    assert targets(graph) == [
        "aten.linear.default",
        "aten.silu.default",
        "aten.mul.Tensor",
        "aten.linear.default",
    ]
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_autocast_is_dropped_so_that_the_graph_is_of_one_precision():
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x).float()

    model = model_of(forward)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    graph = traced(model, (3,))
    with torch.no_grad():
        assert torch.equal(graph(x), model.layer(x))
        assert not torch.equal(graph(x), model(x))


def test_ops_that_write_to_their_input_are_replaced():
    def forward(self, x):
        y = self.layer(x)
        y.relu_()
        y += 1
        return self.head(y)

    model = model_of(forward, head=nn.Linear(4, 2))
    graph = traced(model, (3,))
    assert "aten.relu.default" in targets(graph)
    assert "aten.add.Tensor" in targets(graph)
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_buffers_are_read_and_constants_folded():
    def forward(self, x):
        return self.layer(x) * self.scale + torch.arange(4) * 2

    model = model_of(forward, scale=nn.Buffer(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    graph = traced(model, (3,))
    assert torch.equal(graph.get_buffer("scale"), model.scale)
    assert graph.get_buffer("constant_0").tolist() == [0, 2, 4, 6]
    assert targets(graph) == ["aten.linear.default", "aten.mul.Tensor", "aten.add.Tensor"]
    assert torch.equal(outputs(graph, (3,)), outputs(model, (3,)))


def test_asserts_and_guards_are_dropped():
    def forward(self, x):
        torch._check(x.shape[0] < 1000)
        return self.layer(x.double().float())

    graph = traced(model_of(forward), (3,))
    assert targets(graph) == ["aten.to.dtype", "aten.to.dtype", "aten.linear.default"]
    assert "_guards_fn" not in dict(graph.named_modules())


def test_several_inputs_and_results():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x, y):
            both = torch.relu(self.a(x) + self.b(y))
            return {"both": both, "parts": [both[:, :1], x]}

    torch.manual_seed(0)
    model = Two().eval()
    graph = vibfx.trace(model, [torch.ones(1, 3), torch.ones(1, 2)])
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    with torch.no_grad():
        expected, actual = model(x, y), graph(x, y)
    assert torch.equal(actual["both"], expected["both"])
    assert torch.equal(actual["parts"][0], expected["parts"][0])
    assert torch.equal(actual["parts"][1], x)


def test_sizes_that_follow_the_batch_stay_symbolic():
    graph = traced(model_of(lambda s, x: s.layer(x).reshape(x.shape[0] * 2, 2)), (3,))
    assert graph.graph.find_nodes(op="call_function", target=operator.mul)
    assert graph(torch.ones(7, 3)).shape == (14, 2)


def test_a_gated_graph_runs_on_any_batch_size():
    graph = gated(traced(Plain(), (1, 5, 5)))
    for batch in (1, 2, 7):
        assert outputs(graph, (1, 5, 5), batch).shape == (batch, 3)


def test_a_frozen_parameter_stays_frozen():
    model = model_of(lambda s, x: s.layer(x))
    model.layer.weight.requires_grad_(False)
    graph = traced(model, (3,))
    assert not graph.get_parameter("layer.weight").requires_grad
    assert graph.get_parameter("layer.bias").requires_grad


def test_a_model_in_float64():
    model = model_of(lambda s, x: s.layer(x)).double()
    graph = vibfx.trace(model, torch.ones(2, 3, dtype=torch.float64))
    assert shape_of(graph.graph.find_nodes(op="placeholder")[0]) == (2, 3)
    assert graph(torch.ones(5, 3).double()).dtype == torch.float64


# Refusals.


def test_refuses_inputs_of_the_wrong_shape():
    error = refusal(model_of(lambda s, x: s.layer(x)), torch.ones(2, 5, 7))
    assert error.what.startswith("the model does not run on an input of shape 5x7: ")
    assert "cannot be multiplied" in error.what
    assert error.hint == (
        "Give examples of the shape that the model takes (--input for image folders)."
    )
    assert error.__cause__ is not None


def test_refuses_control_flow_that_depends_on_data():
    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)

    error = refusal(model_of(forward), torch.ones(2, 3))
    assert error.what.startswith("torch.export cannot capture the model: ")
    assert "data-dependent" in error.what
    assert "\n" not in error.what
    assert error.where == "Calls"
    assert error.exit_code == 2


def test_a_write_that_is_seen_elsewhere_is_put_back():
    def forward(self, x):
        y = self.layer(x)
        y[:, 0] = 0.0
        return y

    model = model_of(forward)
    assert torch.equal(outputs(traced(model, (3,)), (3,)), outputs(model, (3,)))


def test_refuses_a_write_to_a_buffer_and_leaves_the_buffer_alone():
    def forward(self, x):
        self.count += 1
        return self.layer(x) * self.count

    model = model_of(forward, count=nn.Buffer(torch.ones(1)))
    error = refusal(model, torch.ones(2, 3))
    assert error.what == "aten.add_.Tensor writes to the parameter or buffer count"
    assert error.__notes__ == ["in pass functionalize"]
    assert model.count.item() == 1.0


def test_a_trial_run_leaves_the_buffers_alone():
    def forward(self, x):
        self.count += 1
        raise ValueError("no")

    model = model_of(forward, count=nn.Buffer(torch.ones(1)))
    assert refusal(model, torch.ones(2, 3)).what.endswith("shape 3: no")
    assert model.count.item() == 1.0
