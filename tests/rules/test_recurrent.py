"""Recurrent layers: a unit is a hidden channel with its rows in every gate of the cell."""

import pytest
import torch
from couplings import Net, case, check_exact, frozen, rows, sizes, unit, units
from torch import nn

HIDDEN = 4
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def net_of(layer, width=HIDDEN, use=lambda result: result[0]):
    return Net(
        lambda net, x: net.h(use(net.r(torch.relu(net.a(x))))),
        a=nn.Linear(3, 6),
        r=layer,
        h=nn.Linear(width, 2),
    )


def cell(gates, bias=True):
    """The units of one layer in one direction, ``h`` behind it."""
    found = set()
    for j in range(HIDDEN):
        own = ",".join(str(g * HIDDEN + j) for g in range(gates))
        parts = ("weight_ih_l0", "weight_hh_l0", *(("bias_ih_l0", "bias_hh_l0") if bias else ()))
        made = [f"r.{part}:0[{own}]" for part in parts]
        found.add(unit(*made, f"r.weight_hh_l0:1[{j}]", f"h.weight:1[{j}]"))
    return found


INPUTS = {unit(f"a.weight:0[{i}]", f"a.bias:0[{i}]", f"r.weight_ih_l0:1[{i}]") for i in range(6)}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_hidden_channel_goes_from_every_gate(kind, bias):
    given = case(net_of(kind(6, HIDDEN, bias=bias, batch_first=True)), 5, 3)
    assert units(given.found) == INPUTS | cell(GATES[kind], bias)
    check_exact(given)


@pytest.mark.parametrize("kind", GATES)
def test_layers_and_directions_keep_the_same_channels(kind):
    layer = kind(6, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
    given = case(net_of(layer, 2 * HIDDEN), 5, 3)
    (hidden,) = units(given.found) - INPUTS if HIDDEN == 1 else [sizes(given.found)]
    assert sorted(hidden.values()) == [HIDDEN, 6]
    first = next(u for u in units(given.found) if "r.weight_hh_l0:1[0]" in u)
    assert {
        "r.weight_hh_l0_reverse:1[0]",
        "r.weight_hh_l1:1[0]",
        "r.weight_ih_l1:1[0]",
        f"r.weight_ih_l1:1[{HIDDEN}]",
        "h.weight:1[0]",
        f"h.weight:1[{HIDDEN}]",
    } <= first
    check_exact(given)


USES = {
    "the last step": lambda result: result[0][:, -1],
    "the final state": lambda result: result[1][-1],
    "the mean": lambda result: result[0].mean(1),
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_read_of_it(use):
    given = case(net_of(nn.GRU(6, HIDDEN, batch_first=True), use=USES[use]), 5, 3)
    assert units(given.found) == INPUTS | cell(3)
    check_exact(given)


def test_the_state_of_an_lstm_cell_is_read():
    given = case(net_of(nn.LSTM(6, HIDDEN, batch_first=True), use=lambda r: r[1][1][-1]), 5, 3)
    assert units(given.found) == INPUTS | cell(4)
    check_exact(given)


def test_steps_before_batch():
    def forward(net, x):
        return net.h(net.r(net.a(x).transpose(0, 1))[0].transpose(0, 1))

    layers = {"a": nn.Linear(3, 6), "r": nn.LSTM(6, HIDDEN), "h": nn.Linear(HIDDEN, 2)}
    given = case(Net(forward, **layers), 5, 3)
    assert units(given.found) == INPUTS | cell(4)
    check_exact(given)


def test_a_first_state_of_the_network_goes_along():
    def forward(net, x):
        state = torch.tanh(net.s(x.mean(1))).unsqueeze(0)
        return net.h(net.r(net.a(x), state)[0])

    layers = {"a": nn.Linear(3, 6), "s": nn.Linear(3, HIDDEN), "h": nn.Linear(HIDDEN, 2)}
    given = case(Net(forward, r=nn.GRU(6, HIDDEN, batch_first=True), **layers), 5, 3)
    assert units(given.found) == INPUTS | {
        one | unit(f"s.weight:0[{j}]", f"s.bias:0[{j}]")
        for j in range(HIDDEN)
        for one in cell(3)
        if f"h.weight:1[{j}]" in one
    }
    check_exact(given)


def test_a_first_state_without_labels_stays():
    def forward(net, x):
        state = x.mean(1)[:, :1].expand(-1, HIDDEN).unsqueeze(0).contiguous()
        return net.h(net.r(net.a(x), state)[0])

    layers = {"a": nn.Linear(3, 6), "h": nn.Linear(HIDDEN, 2)}
    given = case(Net(forward, r=nn.GRU(6, HIDDEN, batch_first=True), **layers), 5, 3)
    assert units(given.found) == INPUTS


def test_projected_states_stay():
    given = case(net_of(nn.LSTM(6, HIDDEN, proj_size=3, batch_first=True), 3), 5, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["r.weight_hh_l0:0"] == {"an LSTM with projected states": 16}


def test_a_layer_behind_reads_a_whole_sequence():
    def forward(net, x):
        return net.h(torch.tanh(net.b(net.r(net.a(x))[0])))

    layers = {"a": nn.Linear(3, 6), "b": nn.Linear(HIDDEN, 5), "h": nn.Linear(5, 2)}
    given = case(Net(forward, r=nn.LSTM(6, HIDDEN, batch_first=True), **layers), 5, 3)
    assert rows(5, "b", "> h") < units(given.found)
    check_exact(given)
