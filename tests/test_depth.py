"""Which sets of units may go together, and of which one has to stay."""

import numpy as np
import pytest
import torch
from couplings import Net, case
from networks import Residual, traced
from torch import nn

import vibfx
from vibfx.coupling import STAYS


def free_to_go(found):
    """The groups that may go as a whole, each by itself."""
    return {group.name for group in found.groups if found.depth.may_go(components(found, group))}


def components(found, *groups):
    units = np.concatenate([np.arange(g.start, g.start + g.size) for g in groups])
    return frozenset(found.component[np.isin(found.unit_of, units)].tolist())


def required(found):
    """The groups of which one unit has to stay."""
    names = {}
    for group in found.groups:
        names |= dict.fromkeys(range(group.start, group.start + group.size), group.name)
    return [{names[unit] for unit in units} for units in found.required]


def test_the_only_path_keeps_one_unit():
    found = case(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 3).found
    assert free_to_go(found) == set()
    assert [units.tolist() for units in found.required] == [[0, 1, 2, 3]]


def test_inside_a_block_all_may_go_and_of_the_stream_one_stays():
    found = vibfx.analyze(traced(Residual(4), (1, 8, 8)))
    assert free_to_go(found) == {"block1.conv1", "block2.conv1"}
    assert required(found) == [{"stem.0"}, {"block2.conv2"}]


def test_both_blocks_may_go_together():
    found = vibfx.analyze(traced(Residual(4), (1, 8, 8)))
    inner = [group for group in found.groups if group.name.endswith("conv1")]
    assert found.depth.may_go(components(found, *inner))


def branches(join):
    def forward(net, x):
        return net.head(join(torch.tanh(net.a(x)), torch.tanh(net.b(x))))

    return forward


def test_branches_of_a_concatenation_may_go_but_not_all():
    net = Net(
        branches(lambda a, b: torch.cat([a, b], 1)),
        a=nn.Linear(3, 4),
        b=nn.Linear(3, 5),
        head=nn.Linear(9, 2),
    )
    found = case(net, 3).found
    assert free_to_go(found) == {"a", "b"}
    assert not found.depth.may_go(components(found, *found.groups))
    assert found.depth.may_go(frozenset())


def test_branches_of_a_sum_are_one_group_that_keeps_a_unit():
    net = Net(
        branches(lambda a, b: a + b), a=nn.Linear(3, 4), b=nn.Linear(3, 4), head=nn.Linear(4, 2)
    )
    found = case(net, 3).found
    assert [group.name for group in found.groups] == ["a"]
    assert free_to_go(found) == set()


def test_a_pooling_cannot_be_left_without_channels_that_a_sum_needs():
    """What is emptied has to end in a layer or a concatenation, not in a product with the rest."""

    def forward(net, x):
        y = torch.relu(net.stem(x))
        return net.head((y * torch.sigmoid(net.scale(y))).mean((2, 3)))

    net = Net(forward, stem=nn.Conv2d(1, 4, 3), scale=nn.Conv2d(4, 4, 1), head=nn.Linear(4, 2))
    found = case(net, 1, 6, 6).found
    assert free_to_go(found) == set()
    assert required(found) == [{"stem"}]


def test_every_output_needs_a_way_from_the_input():
    """The second output hangs on the inner channels alone; without it, they might go."""

    def forward(net, x, *, both):
        y = torch.relu(net.stem(x))
        inner = torch.relu(net.inner(y))
        out = net.head(y + net.back(inner))
        return (out, net.other(inner)) if both else out

    parts = {"stem": (3, 4), "inner": (4, 5), "back": (5, 4), "head": (4, 2), "other": (5, 2)}
    for both in (True, False):
        layers = {n: nn.Linear(*s) for n, s in parts.items() if both or n != "other"}
        net = Net(lambda net, x, both=both: forward(net, x, both=both), **layers)
        assert free_to_go(case(net, 3).found) == (set() if both else {"inner"})


def test_a_chain_inside_a_block_may_go_from_either_end():
    def forward(net, x):
        y = torch.relu(net.stem(x))
        return net.head(y + net.c(torch.relu(net.b(torch.relu(net.a(y))))))

    parts = {"stem": (3, 4), "a": (4, 5), "b": (5, 6), "c": (6, 4), "head": (4, 2)}
    found = case(Net(forward, **{n: nn.Linear(*s) for n, s in parts.items()}), 3).found
    assert free_to_go(found) == {"a", "b"}
    inner = [group for group in found.groups if group.name in "ab"]
    assert found.depth.may_go(components(found, *inner))


def test_what_can_neither_go_nor_be_divided_stays():
    """One unit that is all of a dimension on the only way through."""

    def forward(net, x):
        y = torch.relu(net.a(x)).view(-1, 2, 3)
        return net.head((y + net.shift.p).flatten(1))

    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.ones(1, 2, 1))

    net = Net(forward, a=nn.Linear(4, 6), shift=Shift(), head=nn.Linear(6, 2))
    found = case(net, 4).found
    for units in found.required:
        assert len(units) > 1
        assert (units != STAYS).all()


@pytest.mark.parametrize("seed", range(3))
def test_inseparable_sets_are_those_that_may_not_go(seed):
    torch.manual_seed(seed)
    found = vibfx.analyze(traced(Residual(4), (1, 8, 8)))
    sets = found.depth.inseparable()
    assert len(sets) == 2
    assert not any(found.depth.may_go(frozenset(numbers.tolist())) for numbers in sets)
    # Without one of its members each of them may.
    assert all(found.depth.may_go(frozenset(numbers[1:].tolist())) for numbers in sets)
