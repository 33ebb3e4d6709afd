"""Widths in whole steps: down, filled up by whole steps, and single units only where needed."""

import itertools

import numpy as np
import pytest
from networks import traced
from torch import nn

import vibfx
from vibfx.latency import Step
from vibfx.rounding import aligned, rounded, rounded_up, worth_of_units

WIDTHS = (24, 32, 20)
EVEN = np.ones(sum(WIDTHS))
EIGHTS = [Step(8)] * 3


@pytest.fixture(scope="module")
def coupling():
    """Three groups: 24, 32 and 20 channels."""
    channels = (3, *WIDTHS, 2)
    pairs = itertools.pairwise(channels)
    layers = [layer for pair in pairs for layer in (nn.Conv2d(*pair, 1), nn.ReLU())]
    return vibfx.analyze(traced(nn.Sequential(*layers[:-1]), (3, 4, 4)))


def opened(coupling, *widths):
    """The first units of each group are open."""
    keep = np.zeros(coupling.units, dtype=bool)
    for group, width in zip(coupling.groups, widths, strict=True):
        keep[group.start : group.start + width] = True
    return keep


def scores_of(coupling, keep, *best):
    """Open units score above 0, earlier ones better; the groups by what is added to each."""
    place = np.concatenate([np.arange(group.size) for group in coupling.groups])
    added = np.repeat(best or (0.0,) * len(WIDTHS), WIDTHS)
    return np.where(keep, 5.0, -5.0) - place / 100 + added


def widths(coupling, keep):
    return tuple(int(keep[group.units].sum()) for group in coupling.groups)


def at_most(count):
    return lambda keep: keep.sum() <= count


def multiples(*sizes, slow=(0, 0)):
    return [Step(size, slow) for size in sizes]


def landed(coupling, keep, scores, budget, steps, *, strict=False, weights=(1, 1, 1)):
    """Within a budget of units; where that is strict, it is to be used up."""
    used = (lambda k: k.sum() / budget) if strict else (lambda _: 1.0)
    each = np.repeat(np.array(weights, float), WIDTHS)
    return rounded(
        keep,
        scores,
        at_most(budget),
        used,
        coupling,
        multiples(*steps),
        worth_of_units(scores, each),
    )


def test_the_three_groups(coupling):
    assert tuple(group.size for group in coupling.groups) == WIDTHS


def test_whole_steps_within_the_budget(coupling):
    keep = opened(coupling, 13, 21, 10)
    left = landed(coupling, keep, scores_of(coupling, keep), 44, (8, 8, 8))
    assert widths(coupling, left) == (16, 16, 8)  # of the chunks that of five open units is best


@pytest.mark.parametrize(
    ("weights", "expected"), [((1, 1, 1), (16, 8, 8)), ((1, 1, 4), (8, 8, 16))]
)
def test_information_counts_by_what_it_is_worth(coupling, weights, expected):
    keep = opened(coupling, 13, 10, 10)
    left = landed(coupling, keep, scores_of(coupling, keep), 33, (8, 8, 8), weights=weights)
    assert widths(coupling, left) == expected


def test_the_best_units_are_left_and_the_best_chunk_comes_back(coupling):
    keep = opened(coupling, 12, 12, 12)
    scores = scores_of(coupling, keep, 0.0, 2.0, 1.0)
    scores[0] = 1.0  # open, but the worst of its group
    left = landed(coupling, keep, scores, 36, (8, 8, 8))
    assert widths(coupling, left) == (8, 16, 8)
    assert not left[0]
    assert left[1:9].all()


def test_one_that_is_as_shut_as_can_be_weighs_no_more_than_one_just_shut(coupling):
    keep = opened(coupling, 15, 12, 8)
    scores = scores_of(coupling, keep)
    scores[15] = -1e3
    left = landed(coupling, keep, scores, 35, (8, 8, 8))
    assert widths(coupling, left) == (16, 8, 8)


def test_narrower_than_a_step_goes_down_to_fours(coupling):
    keep = opened(coupling, 6, 8, 3)
    left = landed(coupling, keep, scores_of(coupling, keep), 17, (8, 8, 8))
    assert widths(coupling, left) == (4, 8, 3)
    left = landed(coupling, keep, scores_of(coupling, keep), 17, (6, 8, 3))
    assert widths(coupling, left) == (6, 8, 3)


def test_a_full_width_is_whole(coupling):
    keep = opened(coupling, 8, 8, 20)
    left = landed(coupling, keep, scores_of(coupling, keep), 36, (8, 8, 8))
    assert widths(coupling, left) == (8, 8, 20)
    keep = opened(coupling, 8, 8, 19)
    left = landed(coupling, keep, scores_of(coupling, keep), 36, (8, 8, 8))
    assert widths(coupling, left) == (8, 8, 20)


def test_groups_without_steps_take_what_is_left(coupling):
    keep = opened(coupling, 13, 13, 10)
    left = landed(coupling, keep, scores_of(coupling, keep), 36, (8, 8, 1))
    assert widths(coupling, left) == (16, 8, 12)
    assert np.array_equal(landed(coupling, keep, scores_of(coupling, keep), 36, (1, 1, 1)), keep)


def test_what_is_between_two_steps_is_filled_up_first(coupling):
    keep = opened(coupling, 5, 15, 8)
    scores = scores_of(coupling, keep, 0.0, 4.0, 4.0)
    left = landed(coupling, keep, scores, 28, (8, 8, 8))
    assert widths(coupling, left) == (8, 8, 8)
    left = landed(coupling, keep, scores, 35, (8, 8, 8))
    assert widths(coupling, left) == (8, 16, 8)


def test_where_fours_do_not_use_the_budget_up_a_single_group_gets_any_width(coupling):
    keep = opened(coupling, 14, 13, 11)
    left = landed(coupling, keep, scores_of(coupling, keep), 38, (8, 8, 8), strict=True)
    assert widths(coupling, left) == (16, 14, 8)


def test_where_the_budget_is_not_used_up_the_smallest_group_that_will_do_is_filled(coupling):
    keep = opened(coupling, 13, 12, 10)
    scores = scores_of(coupling, keep)
    assert widths(coupling, landed(coupling, keep, scores, 35, (8, 8, 8))) == (16, 8, 8)
    left = landed(coupling, keep, scores, 35, (8, 8, 8), strict=True)
    assert widths(coupling, left) == (16, 11, 8)
    left = landed(coupling, keep, scores, 36, (8, 8, 8), strict=True)
    assert widths(coupling, left) == (16, 12, 8)


def test_a_group_is_filled_up_by_fours_before_single_units(coupling):
    keep = opened(coupling, 13, 16, 10)
    scores = scores_of(coupling, keep)
    left = landed(coupling, keep, scores, 39, (16, 16, 16), strict=True)
    assert widths(coupling, left) == (12, 16, 11)
    scores[13:24] = -np.inf
    left = landed(coupling, keep, scores, 40, (16, 16, 16), strict=True)
    assert widths(coupling, left) == (12, 16, 12)


def test_the_group_that_uses_up_most_is_filled_first(coupling):
    keep = opened(coupling, 13, 12, 10)
    scores = scores_of(coupling, keep)
    scores[18:24] = -np.inf  # two more of the first group, or all of the second
    left = landed(coupling, keep, scores, 35, (8, 8, 8), strict=True)
    assert widths(coupling, left) == (16, 11, 8)
    scores[24 + 9 : 24 + 32] = scores[56 + 9 :] = -np.inf  # one more of both others: all it takes
    left = landed(coupling, keep, scores, 36, (8, 8, 8), strict=True)
    assert widths(coupling, left) == (18, 9, 8)


def test_between_half_a_block_and_a_block_widths_become_one_of_them(coupling):
    keep = opened(coupling, 13, 20, 11)
    steps = multiples(4, 4, 4, slow=(8, 16))

    def left(scores):
        used = lambda k: k.sum() / 44  # noqa: E731
        return widths(
            coupling,
            rounded(keep, scores, at_most(44), used, coupling, steps, worth_of_units(scores, EVEN)),
        )

    assert left(scores_of(coupling, keep)) == (16, 20, 8)  # of the two it lacks least
    assert left(scores_of(coupling, keep, 0.0, 0.0, 9.0)) == (8, 20, 16)


def test_a_step_is_exchanged_where_whole_ones_alone_do_not_use_the_budget_up(coupling):
    keep = opened(coupling, 24, 24, 10)
    cost = np.repeat([1, 1, 3], WIDTHS)
    within, used = (lambda k: cost[k].sum() <= 78), (lambda k: cost[k].sum() / 78)

    def left(*best):
        scores = scores_of(coupling, keep, *best)
        return rounded(
            keep, scores, within, used, coupling, multiples(8, 8, 4), worth_of_units(scores, EVEN)
        )

    assert widths(coupling, left(-4.0, 0.0, 0.0)) == (16, 24, 12)
    assert widths(coupling, left(0.0, -4.0, 0.0)) == (24, 16, 12)
    assert widths(coupling, left(0.0, 0.0, 0.0)) == (24, 28, 8)  # it would cost too much


def test_features_make_room_for_a_step_of_channels(coupling):
    keep = opened(coupling, 15, 16, 20)
    scores = scores_of(coupling, keep)
    assert widths(coupling, landed(coupling, keep, scores, 51, (16, 16, 1))) == (16, 16, 19)
    keep = opened(coupling, 13, 16, 20)  # of 20 two give way, and one of the 13 fills no four
    assert widths(coupling, landed(coupling, keep, scores, 49, (16, 16, 1))) == (12, 16, 20)


def test_where_whole_steps_use_up_less_all_widths_stay(coupling):
    keep = opened(coupling, 13, 13, 10)
    scores = scores_of(coupling, keep)

    def within(asked):  # whole steps, and little beyond them
        return widths(coupling, asked) == (13, 13, 10) or asked.sum() <= 25

    left = rounded(
        keep, scores, within, lambda k: k.sum() / 36, coupling, EIGHTS, worth_of_units(scores, EVEN)
    )
    assert widths(coupling, left) == (13, 13, 10)


def test_where_whole_steps_cost_more_all_widths_stay(coupling):
    keep = opened(coupling, 13, 13, 10)
    scores = scores_of(coupling, keep)
    left = rounded(
        keep,
        scores,
        lambda k: k.sum() == 36,
        lambda _: 1.0,
        coupling,
        EIGHTS,
        worth_of_units(scores, EVEN),
    )
    assert widths(coupling, left) == (13, 13, 10)


def test_units_that_are_gone_never_come_back(coupling):
    keep = opened(coupling, 13, 13, 10)
    scores = scores_of(coupling, keep)
    scores[14:24] = -np.inf  # of the first group there are 14
    left = landed(coupling, keep, scores, 36, (8, 8, 8), strict=True)
    assert not (left & ~np.isfinite(scores)).any()
    assert widths(coupling, left) == (12, 16, 8)


def test_rounding_up_where_a_group_is_wider_than_a_step(coupling):
    keep = opened(coupling, 13, 5, 17)
    up = rounded_up(keep, scores_of(coupling, keep), coupling, EIGHTS)
    assert widths(coupling, up) == (16, 5, 20)
    assert (up | keep == up).all()
    keep = opened(coupling, 16, 0, 20)
    up = rounded_up(keep, scores_of(coupling, keep), coupling, EIGHTS)
    assert np.array_equal(up, keep)


def test_rounding_up_takes_all_or_nothing(coupling):
    keep = opened(coupling, 13, 8, 8)
    scores = scores_of(coupling, keep)
    scores[15:24] = -np.inf
    assert np.array_equal(rounded_up(keep, scores, coupling, EIGHTS), keep)


def test_widths_go_up_to_multiples_of_four_of_what_is_there(coupling):
    keep = opened(coupling, 13, 8, 2)
    scores = scores_of(coupling, keep)
    up = aligned(keep, scores, coupling, EIGHTS)
    assert widths(coupling, up) == (16, 8, 4)
    assert (up >= keep).all()
    scores[14:24] = -np.inf  # of the first group a single one is left that could be opened
    assert widths(coupling, aligned(keep, scores, coupling, EIGHTS)) == (13, 8, 4)
