"""How many units of each group the runtime computes at once."""

import pytest
import torch
from counted_networks import network
from networks import traced
from torch import nn

import vibfx
from vibfx.costs import CostModel
from vibfx.latency import Step, steps, unit_steps


@pytest.fixture(autouse=True)
def blocks_of_sixteen(monkeypatch):
    monkeypatch.setattr(steps, "channel_block", lambda: 16)


def found_in(module, **options):
    coupling = vibfx.analyze(module)
    shares = CostModel(module, coupling).flops_shares()
    return unit_steps(module, coupling, shares, **options), coupling


def of(module, way=0, **options):
    """The size of every group's step."""
    found, coupling = found_in(module, **options)
    named = zip(coupling.groups, found[way], strict=True)
    return {group.name: step.size for group, step in named}


def test_channels_of_convolutions_come_in_blocks_and_features_of_linears_do_not():
    plain = nn.Sequential(
        nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 140, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(140, 40), nn.ReLU(), nn.Linear(40, 10),
    )  # fmt: skip
    assert of(traced(plain.eval(), (3, 8, 8))) == {"0": 16, "2": 16, "6": 1}


def test_narrow_layers_come_in_blocks_too_where_others_make_up_for_it():
    narrow_and_wide = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 256, 3),
        nn.ReLU(), nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Conv2d(256, 4, 1),
    )  # fmt: skip
    # The first has two blocks, of 16 x 19 FLOPs a pixel each; the second is just one.
    assert of(traced(narrow_and_wide.eval(), (3, 8, 8))) == {"0": 16, "2": 4, "4": 16, "6": 16}


def test_of_narrow_layers_those_that_are_read_by_convolutions_are_multiples_of_four():
    narrow = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip
    assert of(traced(narrow.eval(), (3, 8, 8))) == {"0": 4, "2": 1}


class Dense(nn.Module):
    """Two branches, which a third convolution reads side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 128, 1), nn.Conv2d(3, 16, 1)
        self.both = nn.Conv2d(144, 4, 1)

    def forward(self, x):
        return self.both(torch.relu(torch.cat([self.a(x), self.b(x)], dim=1)))


def test_what_is_concatenated_has_to_fill_its_blocks_however_narrow_it_is():
    assert of(traced(Dense().eval(), (3, 4, 4))) == {"a": 16, "b": 16}
    assert of(traced(Dense().eval(), (3, 4, 4)), round_to=4) == {"a": 4, "b": 4}


def test_so_has_what_is_pooled_if_convolutions_make_it():
    pooled = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 40, 2), nn.ReLU(), nn.Flatten(), nn.Linear(40, 10),
    )  # fmt: skip
    assert of(traced(pooled.eval(), (3, 8, 8)))["2"] == 16
    unpooled = nn.Sequential(*[layer for n, layer in enumerate(pooled) if n != 4][:-1])
    assert of(traced(unpooled.eval(), (3, 8, 8)))["2"] == 4
    rows = nn.Sequential(nn.Conv1d(3, 48, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(48, 8, 2))
    assert of(traced(rows.eval(), (3, 8))) == {"0": 1}


def test_below_a_block_what_no_convolution_reads_may_have_any_width():
    pooled = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10),
    )  # fmt: skip
    (finest, *_), _ = found_in(traced(pooled.eval(), (1, 16, 16)))
    assert finest == [Step(16, (8, 16), 4), Step(16, fine=1), Step(1, fine=1)]
    assert [finest[1].at_most(width) for width in (5, 17, 50)] == [5, 16, 48]


def test_between_half_a_block_and_a_block_what_a_convolution_reads_is_slow():
    narrow = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(), nn.Conv2d(12, 48, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(48 * 4, 10),
    )  # fmt: skip
    (finest, *_), _ = found_in(traced(narrow.eval(), (3, 8, 8)))
    assert finest == [Step(4, (8, 16)), Step(4), Step(1, fine=1)]  # the second fills no block


def test_ways_lead_from_fine_steps_to_coarse_ones():
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)]
    ways, _ = found_in(traced(nn.Sequential(*layers).eval(), (3, 8, 8)))
    assert [[step.size for step in way] for way in ways] == [[4, 4], [16, 4], [16, 16]]


@pytest.mark.parametrize(
    ("step", "width", "at_most", "above"),
    [
        (Step(4), 13, 12, 16), (Step(4), 12, 12, 16), (Step(4), 3, 3, 4), (Step(1), 7, 7, 8),
        (Step(16), 40, 32, 48), (Step(16), 13, 12, 16),
        (Step(4, (8, 16)), 13, 8, 16), (Step(4, (8, 16)), 8, 8, 16), (Step(4, (8, 16)), 4, 4, 8),
        (Step(16, (8, 16)), 13, 8, 16), (Step(16, (8, 16)), 40, 32, 48),
    ],
)  # fmt: skip
def test_whole_widths_beside_any(step, width, at_most, above):
    assert (step.at_most(width), step.above(width)) == (at_most, above)
    assert step.is_whole(above)


def test_finer_steps_stay_out_of_what_is_slow():
    assert Step(16, (8, 16)).finer(4) == Step(4, (8, 16))
    assert Step(6).finer(4) == Step(2)
    assert [w for w in range(1, 21) if Step(4, (8, 16)).is_whole(w)] == [4, 8, 16, 20]


def test_a_number_that_is_told_holds_for_every_layer():
    module = network("lenet")
    assert set(of(module, round_to=4).values()) == {4}
    assert set(of(module, round_to=1).values()) == {1}


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 6, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_of_units_with_several_channels_fewer_make_a_step():
    module = vibfx.trace(Heads().eval(), torch.randn(2, 5, 48))
    (in_eights, coupling), (in_sixteens, _) = (found_in(module, round_to=n) for n in (8, 16))
    heads = [group.size for group in coupling.groups].index(6)
    assert (in_eights[0][heads].size, in_sixteens[0][heads].size) == (1, 2)


def test_convolutions_without_blocks_have_no_steps(monkeypatch):
    monkeypatch.setattr(steps, "channel_block", lambda: 1)
    assert set(of(network("residual")).values()) == {1}


def test_the_runtime_of_this_machine_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "channel_block", lambda: asked.append(True) or 8)
    assert 4 in of(network("residual")).values()
    assert asked
