import pytest
import torch
from small_graphs import Calls, plain
from torch import nn

import vibfx
from vibfx.inputs import (
    call_arguments,
    flattened,
    has_batch,
    random_inputs,
    tensor_inputs,
    traced_batch,
)


class Nested(nn.Module):
    """Takes whatever may be an argument, and returns it nested."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x, mask=None, scale=1.0, more=None):
        y = self.layer(x) * scale
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        if more is not None:
            y = y + more["a"][0]
        return {"y": y, "n": 3, "rest": (None, [x])}


def nested():
    torch.manual_seed(0)
    more = {"a": [torch.ones(2, 1), None]}
    return vibfx.trace(Nested(), (torch.ones(2, 3), None), {"scale": 2.0, "more": more})


def test_constants_have_placeholders_that_are_no_inputs():
    graph = nested()
    assert [n.name for n in graph.graph.find_nodes(op="placeholder")] == [
        *("x", "mask", "scale", "more_a_0", "more_a_1"),
    ]
    assert [n.name for n in tensor_inputs(graph)] == ["x", "more_a_0"]


def test_flattened_takes_and_gives_tensors_and_shares_the_weights():
    graph = nested()
    flat = flattened(graph)
    x, a = torch.randn(5, 3), torch.randn(5, 1)
    expected = graph(x, None, scale=2.0, more={"a": [a, None]})
    y, same = flat(x, a)
    assert torch.equal(y, expected["y"])
    assert same is x
    assert flat.get_parameter("layer.weight") is graph.get_parameter("layer.weight")
    assert type(flat).__name__ == "Nested"
    assert [n.name for n in tensor_inputs(flat)] == ["x", "more_a_0"]


def test_call_arguments_are_what_the_graph_is_called_with():
    graph = nested()
    x, a = torch.randn(5, 3), torch.randn(5, 1)
    args, kwargs = call_arguments(graph, (x, a))
    assert args == (x, None)
    assert kwargs == {"scale": 2.0, "more": {"a": [a, None]}}
    assert torch.equal(graph(*args, **kwargs)["y"], flattened(graph)(x, a)[0])
    assert call_arguments(flattened(graph), (x, a)) == ((x, a), {})


def test_a_baked_in_constant_that_is_read_is_put_where_it_is_read():
    graph = nested()
    scale = next(n for n in graph.graph.nodes if n.name == "scale")
    (mul,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    mul.update_arg(1, scale)
    flat = flattened(graph)
    assert [n.args[1] for n in flat.graph.nodes if n.name == "mul"] == [2.0]


def test_the_batch_is_known():
    graph = nested()
    assert all(has_batch(node) for node in tensor_inputs(graph))
    assert traced_batch(graph) == 2
    fixed = vibfx.trace(Calls(lambda s, x: x.reshape(3, 4)), torch.ones(3, 4))
    assert not has_batch(tensor_inputs(fixed)[0])
    assert traced_batch(fixed) == 3
    scalar = vibfx.trace(Calls(lambda s, x: x * 2), torch.tensor(3.0))
    assert traced_batch(scalar) == 1
    (value,) = random_inputs(scalar, 5, torch.Generator())
    assert value.shape == ()


def test_a_fixed_batch_is_drawn_as_it_was_traced():
    fixed = vibfx.trace(Calls(lambda s, x: x.reshape(3, 4)), torch.ones(3, 4))
    (x,) = random_inputs(fixed, 5, torch.Generator().manual_seed(0))
    assert x.shape == (3, 4)


def test_random_inputs_are_the_same_numbers_in_any_precision():
    graph = plain()
    (single,) = random_inputs(graph, 7, torch.Generator().manual_seed(1))
    (double,) = random_inputs(graph.double(), 7, torch.Generator().manual_seed(1))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert single.shape == (7, 1, 5, 5)
    assert torch.equal(single, double.float())


def test_random_inputs_of_whole_numbers_are_zero_or_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(2, 3), nn.Flatten(), nn.Linear(12, 2))
    graph = vibfx.trace(model, torch.zeros(2, 4, dtype=torch.int64))
    (x,) = random_inputs(graph, 50, torch.Generator().manual_seed(0))
    assert x.dtype == torch.int64
    assert x.unique().tolist() == [0, 1]


@pytest.mark.parametrize("view", [lambda i: i, lambda i: i.view(-1, 2), lambda i: i[:, :1]])
def test_whole_numbers_cover_the_embedding_they_go_into(view):
    torch.manual_seed(0)
    model = Calls(lambda s, i: s.table(view(i)).sum(), table=nn.Embedding(50, 3))
    graph = vibfx.trace(model, torch.zeros(2, 4, dtype=torch.int32))
    (x,) = random_inputs(graph, 100, torch.Generator().manual_seed(0))
    assert (x.min().item(), x.max().item()) == (0, 49)
    assert x.dtype == torch.int32


def test_the_smallest_of_several_embeddings_decides_and_masks_stay_masks():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Embedding(50, 3), nn.Embedding(5, 3)

        def forward(self, i, mask):
            return (self.a(i) + self.b(i)) * mask[..., None]

    graph = vibfx.trace(Two(), (torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4) > 0))
    i, mask = random_inputs(graph, 100, torch.Generator().manual_seed(0))
    assert i.unique().tolist() == [0, 1, 2, 3, 4]
    assert mask.dtype == torch.bool
