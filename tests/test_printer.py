import textwrap
from types import SimpleNamespace

import torch
from networks import gated, traced
from small_graphs import Calls, exported, plain
from sympy import Symbol
from torch import nn

import vibfx
from vibfx.passes import InsertGates


def body(graph):
    """The lines of the inputs and calls."""
    return "\n".join(x for x in vibfx.format_graph(graph).splitlines() if " = attribute" not in x)


def test_a_graph_in_full():
    torch.manual_seed(0)
    graph = traced(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,))
    expected = """\
        %_0_weight: f32[4, 3] = attribute 0.weight
        %_0_bias: f32[4] = attribute 0.bias
        %_2_weight: f32[2, 4] = attribute 2.weight
        %_2_bias: f32[2] = attribute 2.bias
        %input_1: f32[N, 3] = input
        %linear: f32[N, 4] = aten.linear(%input_1, %_0_weight, %_0_bias)  # 0
        %relu: f32[N, 4] = aten.relu(%linear)  # 1
        %linear_1: f32[N, 2] = aten.linear(%relu, %_2_weight, %_2_bias)  # 2
        return [%linear_1]
        """
    assert vibfx.format_graph(graph) == textwrap.dedent(expected)


def test_the_same_text_on_two_runs():
    first, second = plain(), plain(seed=1)
    assert vibfx.format_graph(first) == vibfx.format_graph(second)
    gates = [InsertGates(vibfx.analyze(g))(g).graph_module for g in (first, second)]
    assert vibfx.format_graph(gates[0]) == vibfx.format_graph(gates[1])


def test_another_graph_gives_another_text():
    assert vibfx.format_graph(plain(4)) != vibfx.format_graph(plain(5))
    assert vibfx.format_graph(plain()) != vibfx.format_graph(gated(plain()))


def test_two_batch_sizes_are_n_and_n1_in_order_of_appearance():
    class Two(nn.Module):
        def forward(self, a, b):
            return torch.cat([b, a], 0)

    graph = exported(Two(), torch.ones(2, 3), torch.ones(4, 3))
    expected = """\
        %a: f32[N, 3] = input
        %b: f32[N1, 3] = input
        %cat: f32[N + N1, 3] = aten.cat([%b, %a])
        return [%cat]"""
    lines = body(graph).replace("N1 + N", "N + N1")  # a sum has no order
    assert lines == textwrap.dedent(expected)


class Size:
    """A size as the printer sees it."""

    def __init__(self, expression):
        self.node = SimpleNamespace(expr=expression)

    def __str__(self):
        return str(self.node.expr)


def test_a_symbol_whose_name_begins_another_is_not_mistaken_for_it():
    graph = plain()
    x = graph.graph.find_nodes(op="placeholder")[0]
    value = torch.empty(1)
    value.__class__ = type(
        "Sized", (torch.Tensor,), {"shape": [Size(Symbol("s7") * Symbol("s77"))]}
    )
    x.meta["val"] = value
    assert "%x: f32[N*N1] = input" in vibfx.format_graph(graph)


def test_types_sizes_and_results_of_several_parts():
    def forward(self, x):
        a, b = self.layer(x).split([1, 3], 1)
        whole = torch.zeros(x.shape[0], dtype=torch.int64)
        return a.double() > 0, b.half(), b.bfloat16(), whole

    torch.manual_seed(0)
    graph = traced(Calls(forward, layer=nn.Linear(3, 4)), (3,))
    lines = {x.split(":")[0]: x.split(": ", 1)[1] for x in body(graph).splitlines()[:-1]}
    assert lines["%split_with_sizes"] == (
        "(f32[N, 1], f32[N, 3]) = aten.split_with_sizes(%linear, [1, 3], 1)"
    )
    assert lines["%getitem"] == "f32[N, 1] = getitem(%split_with_sizes, 0)"
    assert lines["%to"] == "f64[N, 1] = aten.to.dtype(%getitem, torch.float64)"
    assert lines["%gt"] == "bool[N, 1] = aten.gt.Scalar(%to, 0)"
    assert lines["%to_1"].startswith("f16[N, 3]")
    assert lines["%to_2"].startswith("bf16[N, 3]")
    size = next(name for name in lines if name.startswith("%sym_size"))
    assert lines[size].split("  #")[0] == "int = aten.sym_size.int(%x, 0)"
    assert lines["%zeros"] == (
        f"i64[N] = aten.zeros([{size}], dtype=torch.int64, device=cpu, pin_memory=False)"
    )


def test_results_in_a_dictionary():
    torch.manual_seed(0)
    graph = traced(Calls(lambda s, x: {"y": s.f(x), "x": x}, f=nn.Linear(3, 2)), (3,))
    assert body(graph).splitlines()[-1] == "return [%linear, %x]"


def test_attributes_show_what_they_hold_now():
    graph = plain()
    graph.get_submodule("head").bias = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    assert "%head_bias: f64[7] = attribute head.bias" in vibfx.format_graph(graph)
