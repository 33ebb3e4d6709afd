import pytest
import torch
from applied_networks import plan_keeping
from torch import Tensor, nn

import vibfx
from vibfx.applying.narrowing import (
    Narrowing,
    calls_of,
    of_layers,
    of_own_numbers,
    resized,
    tensor_of,
)
from vibfx.errors import PlanError
from vibfx.passes import PruneChannels
from vibfx.planning import PruningPlan


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.classes, self.flag = 4, 4, True
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).reshape(-1, self.heads, 2)
        return self.last(torch.relu(y).reshape(-1, 2 * self.heads))


def cut_heads():
    model = Heads()
    graph = vibfx.trace(model, torch.randn(2, 3))
    plan = plan_keeping(graph, first=[0, 2])
    return model, plan, graph, PruneChannels(plan)(graph).graph_module


def test_tensors_are_cut_in_place_with_their_gradients():
    model, plan, _, cut = cut_heads()
    model(torch.randn(2, 3)).sum().backward()
    weight = model.first.weight
    kept = list(plan.parameters["first.weight"][0])
    values, gradient = weight.detach()[kept], weight.grad[kept]
    Narrowing(plan, {("last", "in_features"): 4}).apply(model)
    assert model.first.weight is weight
    assert torch.equal(weight.detach(), values)
    assert torch.equal(weight.grad, gradient)
    assert model.last.in_features == 4
    assert of_layers(model, cut) == {("first", "out_features"): len(kept)}


def test_nothing_changes_where_a_tensor_is_missing():
    model = Heads()
    plan = PruningPlan({"first.weight": {0: (0,)}, "gone.weight": {0: (0,)}}, {}, ())
    with pytest.raises(PlanError, match="a tensor that the module does not hold") as caught:
        Narrowing(plan, {}).apply(model)
    assert caught.value.where == "gone.weight"
    assert model.first.weight.shape == (8, 3)
    with pytest.raises(PlanError):
        tensor_of(model, "first.in_features")


def test_the_nodes_of_each_module_are_those_it_makes_itself():
    model, _, graph, _ = cut_heads()
    calls = calls_of(model, graph)
    assert [node.name for node in calls[model.first]] == ["linear"]
    assert {node.name for node in calls[model]} >= {"relu"}
    assert not {node.name for node in calls[model]} & {"linear", "linear_1"}


def test_own_numbers_are_guessed_from_what_changed_in_the_graph():
    model, _, graph, cut = cut_heads()
    (first, *_) = of_own_numbers(model, graph, cut)
    assert first == {("", "heads"): 2, ("", "classes"): 2}
    assert {node.target for node in resized(graph, cut)} <= {
        torch.ops.aten.reshape.default,
        torch.ops.aten.view.default,
    }
    assert not list(of_own_numbers(nn.Sequential(), graph, cut))
