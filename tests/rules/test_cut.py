"""What a removal leaves, as the rules see it that adapt the nodes."""

import pytest
import torch
from torch import fx

from vibfx.rules.cut import Cut, scaled

aten = torch.ops.aten


@pytest.fixture
def cut():
    """``x`` of 2 x 4 x 6, of which channels 1 and 3 are left; ``y`` of which all is."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    double = graph.call_function(aten.mul.Tensor, (x, 2))
    graph.output((double, y))
    for node, shape in ((x, (2, 2, 6)), (y, (2, 3)), (double, (2, 2, 6))):
        node.meta["val"] = torch.zeros(shape, device="meta")
    kept = (None, torch.tensor([1, 3]), None)
    shapes = {x: (2, 4, 6), double: (2, 4, 6), y: (2, 3)}
    return Cut(fx.GraphModule({}, graph), {x: [kept], double: [kept]}, shapes)


def nodes(cut):
    return {node.name: node for node in cut.module.graph.nodes}


def test_what_is_left_of_every_dimension(cut):
    x, y = nodes(cut)["x"], nodes(cut)["y"]
    assert [None if k is None else k.tolist() for k in cut.of(x)] == [None, [1, 3], None]
    assert cut.of(y) == (None, None)
    assert cut.along(x, 1).tolist() == [1, 3]
    assert cut.along(x, 2) is None
    assert cut.indices(x, 1) == [1, 3]
    assert cut.indices(x, 0) == [0, 1]
    assert cut.ranks(x, 1) == {1: 0, 3: 1}


def test_the_share_that_is_left(cut):
    x, y = nodes(cut)["x"], nodes(cut)["y"]
    assert cut.share(x, [1]) == 0.5
    assert cut.share(x, [0, 1, 2]) == 0.5
    assert cut.share(x, [0, 2]) == 1.0
    assert cut.share(y, [1]) == 1.0


def test_new_nodes_know_their_shape(cut):
    x = nodes(cut)["x"]
    with cut.module.graph.inserting_after(x):
        total = cut.call(aten.sum.dim_IntList, x, [1], True)
    assert total.meta["val"].shape == (2, 1, 6)


def test_a_constant_is_a_buffer(cut):
    like = nodes(cut)["x"]
    like.meta["val"] = torch.zeros(2, 2, 6)
    with cut.module.graph.inserting_before(nodes(cut)["mul_tensor"]):
        table = cut.constant(like, torch.tensor([3, 1]))
    assert cut.module.get_buffer(table.target).tolist() == [3, 1]
    assert table.meta["val"].dtype is torch.int64
    assert table.meta["val"].shape == (2,)


def test_a_node_that_stands_in_for_another(cut):
    old = nodes(cut)["mul_tensor"]
    with cut.module.graph.inserting_before(old):
        new = cut.call(aten.add.Tensor, nodes(cut)["x"], 1)
    cut.stand_in(new, old)
    assert cut.shapes[new] == (2, 4, 6)
    assert cut.along(new, 1).tolist() == [1, 3]
    cut.drop(old, new)
    assert "mul_tensor" not in nodes(cut)
    assert next(iter(new.users)).op == "output"


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_result_is_multiplied_where_that_changes_it(cut, factor):
    double = nodes(cut)["mul_tensor"]
    before = len(cut.module.graph.nodes)
    scaled(double, cut, factor)
    assert len(cut.module.graph.nodes) == before + (factor != 1.0)
    (reader,) = double.users
    assert reader.op == ("output" if factor == 1.0 else "call_function")
    if factor != 1.0:
        assert reader.args == (double, 0.5)
