"""Connected components of labels, and how shapes are kept boxes."""

import numpy as np
import torch
from couplings import Net, case
from torch import nn

import vibfx
from vibfx.components import NORMS, find_components, solve
from vibfx.labels import ALWAYS_KEPT
from vibfx.passes import InsertGates
from vibfx.propagation import propagate


def numbers(found, parameter, dim):
    """The component of every index of a parameter's dimension."""
    (slot,) = (s for s in found.space.of_parameter(parameter) if s.dim == dim)
    return found.component[slot.start : slot.start + slot.size]


def chain():
    return case(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 3)


def test_what_makes_and_what_reads_a_channel_are_one_component():
    found = find_components(chain().graph)
    made = numbers(found, "0.weight", 0)
    assert len(set(made)) == 4
    assert np.array_equal(made, numbers(found, "0.bias", 0))
    assert np.array_equal(made, numbers(found, "2.weight", 1))
    assert set(made).isdisjoint(numbers(found, "2.weight", 0))


def test_what_stays_is_the_output_and_what_reads_the_input():
    found = find_components(chain().graph)
    stays = {
        (slot.parameter, slot.dim): set(found.stays[slot.start : slot.start + slot.size])
        for slot in found.space.slots
    }
    assert stays == {
        ("0.weight", 0): {False},
        ("0.weight", 1): {True},
        ("0.bias", 0): {False},
        ("2.weight", 0): {True},
        ("2.weight", 1): {False},
        ("2.bias", 0): {True},
    }
    assert found.stays[ALWAYS_KEPT]


def table(tied):
    """Six features seen as a table of 2 x 3, with some of them tied to one another."""

    def forward(net, x):
        y = torch.tanh(net.a(x).view(-1, 2, 3)).flatten(1)
        return net.h(tied(net, x, y))

    return case(Net(forward, a=nn.Linear(5, 6), s=nn.Linear(5, 3), h=nn.Linear(6, 2)), 5)


def test_a_table_is_cut_along_the_dimension_that_leaves_more_units():
    given = table(lambda net, x, y: y + torch.cat([net.s(x), net.s(x)], 1))
    made = numbers(find_components(given.graph), "a.weight", 0).reshape(2, 3)
    assert np.array_equal(made[0], made[1])
    assert len(set(made[0])) == 3


def test_a_row_that_stays_leaves_the_other_rows_as_units():
    """There are more columns, but each of them holds an element of the row that stays."""

    def forward(net, x):
        y = torch.tanh(net.a(x).view(-1, 3, 4))
        return net.h(y.flatten(1)), y[:, :1]

    given = case(Net(forward, a=nn.Linear(5, 12), h=nn.Linear(12, 2)), 5)
    found = find_components(given.graph)
    made = numbers(found, "a.weight", 0).reshape(3, 4)
    (slot,) = (s for s in found.space.of_parameter("a.weight") if s.dim == 0)
    stays = found.stays[slot.start : slot.start + slot.size].reshape(3, 4)
    assert stays.tolist() == [[True] * 4, [False] * 4, [False] * 4]
    assert [len(set(row)) for row in made[1:]] == [1, 1]
    assert made[1, 0] != made[2, 0]


def test_nothing_is_coupled_where_components_are_whole_slices():
    given = case(
        Net(
            lambda net, x: net.h(torch.tanh(net.a(x)).flatten(1)),
            a=nn.Conv2d(1, 4, 2),
            h=nn.Linear(36, 2),
        ),
        *(1, 4, 4),
    )
    propagation = propagate(given.graph)
    ties = len(propagation.facts.ties)
    solve(propagation)
    assert len(propagation.facts.ties) == ties


def test_solving_again_finds_the_same():
    propagation = propagate(table(lambda net, x, y: y).graph)
    assert np.array_equal(solve(propagation), solve(propagation))


def normed():
    return case(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), 3)


def test_norms_across_channels_can_be_asked_to_stay():
    graph = normed().graph
    free = {norms: ~find_components(graph, norms=norms).stays for norms in ("exact", "freeze")}
    assert free["exact"].any()
    assert not free["freeze"].any()
    assert np.array_equal(~find_components(graph).stays, free["exact"])


def test_a_gated_graph_is_analysed_as_it_was_before():
    """A norm that was frozen when the gates went in is not opened up when they are read."""

    def forward(net, x):
        return net.c(torch.relu(net.b(net.norm(net.a(x)))))

    parts = {"a": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "b": nn.Linear(4, 5)}
    given = case(Net(forward, **parts, c=nn.Linear(5, 2)), 3)
    for norms, units in (("exact", 9), ("freeze", 5)):
        coupling = vibfx.analyze(given.graph, norms=norms)
        gated = InsertGates(coupling)(given.graph).graph_module
        assert gated.meta[NORMS] == norms
        assert coupling.units == units
        assert vibfx.analyze(gated).units == units
        assert vibfx.plan(gated).removed_units == 0
    assert NORMS not in given.graph.meta
