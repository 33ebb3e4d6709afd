"""Gates are ops like any other: a gated graph is analysed as the graph it came from."""

import pytest
import torch
from couplings import Net, Value, case, unit, units
from networks import gated, shut_half
from torch import nn

import vibfx
from vibfx.gates import gates_of
from vibfx.passes import PruneChannels


def _gate(*members):
    return [f"gates.{name}.{part}:0[{index}]" for name, index in members for part in PARTS]


PARTS = ("mu", "log_sigma2")


def plain():
    return case(
        Net(lambda net, x: net.b(torch.relu(net.a(x))), a=nn.Linear(3, 5), b=nn.Linear(5, 2)), 3
    )


def flattened():
    return case(
        Net(
            lambda net, x: net.b(torch.relu(net.a(x)).flatten(1)),
            a=nn.Conv2d(1, 4, 2),
            b=nn.Linear(16, 2),
        ),
        *(1, 3, 3),
    )


def joined():
    """Two groups at one site, told apart by an index."""
    return case(
        Net(
            lambda net, x: net.c(torch.tanh(net.n(torch.cat([net.a(x), net.b(x)], 1)))),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 2),
            n=nn.BatchNorm1d(6),
            c=nn.Linear(6, 2),
        ),
        3,
    )


def heads():
    """A gate that governs more than one element an entry."""
    return case(
        Net(
            lambda net, x: net.b((net.a(x).unflatten(1, (3, 2)) * net.v.p).flatten(1)),
            a=nn.Linear(4, 6),
            v=Value(3, 1),
            b=nn.Linear(6, 2),
        ),
        4,
    )


def on_a_parameter():
    """A gate without a batch in front."""
    return case(
        Net(lambda net, x: (net.w.p @ net.a(x).t()).t(), a=nn.Linear(3, 5), w=Value(2, 5)), 3
    )


CASES = [plain, flattened, joined, heads, on_a_parameter]


@pytest.mark.parametrize("build", CASES)
def test_a_gate_joins_the_unit_it_governs(build):
    given = build()
    before, after = units(given.found), vibfx.analyze(gated(given.graph))
    without_gates = {frozenset(m for m in u if not m.startswith("gates.")) for u in units(after)}
    assert without_gates == before
    parts = [[m for m in u if m.startswith("gates.")] for u in units(after)]
    assert all(len(own) == 2 for own in parts)  # one mean and one variance each


def test_the_units_with_their_gates():
    assert units(vibfx.analyze(gated(plain().graph))) == {
        unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"b.weight:1[{i}]", *_gate(("a", i)))
        for i in range(5)
    }


@pytest.mark.parametrize("build", CASES)
def test_groups_and_frozen_indices_are_the_same(build):
    given = build()
    after = vibfx.analyze(gated(given.graph))
    own = [(group.name, group.size) for group in given.found.groups]
    assert [(group.name, group.size) for group in after.groups] == own
    assert [str(entry) for entry in after.frozen] == [str(entry) for entry in given.found.frozen]


@pytest.mark.parametrize("build", CASES)
def test_gates_are_cut_along(build):
    module = gated(build().graph)
    shut_half(module)
    open_units = {name: int(gate.open().sum()) for name, gate in gates_of(module).items()}
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert {name: gate.units for name, gate in gates_of(small).items()} == open_units
    assert vibfx.verify(module, small).error < 1e-9


def test_a_gate_of_one_unit_can_be_analysed():
    module = gated(plain().graph)
    shut_half(module, share=0.8)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert [gate.units for gate in gates_of(small).values()] == [1]
    assert vibfx.analyze(small).groups == ()
