"""The primitives, on labels made by hand."""

import pytest
import torch
from labels_by_hand import described, freezes, grid, labels, new_facts, tagged, ties

from vibfx.labels import Tagged, on_dim, varying
from vibfx.rules.facts import distinct

TIED = "tied to channels that always stay, such as those of the model's input"
UNLABELLED = "combined with a tensor whose channels cannot be removed"
SHARED = "shares a parameter with a tensor of more dimensions"


@pytest.fixture
def facts():
    return new_facts()


# --- freeze -------------------------------------------------------------------------------------


def test_freeze_names_each_label_once_and_the_node(facts):
    facts.freeze([on_dim(labels(3, 1, 3), 1, (4, 3)), labels(7)], "because")
    assert freezes(facts) == [([1, 3], "because"), ([7], "because")]
    assert {freeze.node for freeze in facts.freezes} == {facts.node}


def test_freezing_what_always_stays_says_nothing(facts):
    facts.freeze([labels(0, 0)], "because")
    assert facts.freezes == []


# --- tie ----------------------------------------------------------------------------------------


def test_tie_joins_equal_positions(facts):
    facts.tie(on_dim(labels(1, 2), 1, (3, 2)), on_dim(labels(5, 6), 1, (3, 2)))
    assert ties(facts) == {(1, 5), (2, 6)}
    assert facts.freezes == []


def test_tie_broadcasts(facts):
    facts.tie(labels(1, 2), on_dim(labels(5, 6), 1, (3, 2)))
    assert ties(facts) == {(1, 5), (2, 6)}


def test_a_tie_to_what_always_stays_freezes(facts):
    facts.tie(labels(1, 0, 3, 0), labels(5, 6, 0, 0))
    assert ties(facts) == {(1, 5)}
    assert freezes(facts) == [([3], TIED), ([6], TIED)]


def test_a_wider_factor_is_tied_along_its_outer_axis(facts):
    facts.tie(grid(2, 3), on_dim(labels(7, 8), 0, (2, 3)))
    assert ties(facts) == {(1, 7), (2, 7), (3, 7), (4, 8), (5, 8), (6, 8)}
    assert facts.freezes == []


def test_a_table_shared_along_the_outer_axis_stays(facts):
    facts.tie(grid(2, 3), on_dim(labels(7, 8, 9), 1, (2, 3)))
    assert ties(facts) == {(1, 2), (1, 3), (4, 5), (4, 6)}
    assert freezes(facts) == [([7, 8, 9], SHARED)]


def test_the_outer_axis_is_that_of_the_labels_not_of_the_tensor(facts):
    facts.tie(grid(2, 3).t(), on_dim(labels(7, 8), 1, (3, 2)))
    assert ties(facts) == {(1, 7), (2, 7), (3, 7), (4, 8), (5, 8), (6, 8)}
    assert facts.freezes == []


HUGE = 10**7


def test_tie_looks_at_nothing_along_which_labels_do_not_vary(facts):
    """All positions of an attention over a video would fill the memory many times over."""
    wide = grid(2, 2).reshape(1, 2, 1, 2).expand(HUGE, 2, HUGE, 2)
    narrow = labels(7, 8).reshape(1, 2, 1, 1).expand(HUGE, 2, HUGE, 2)
    facts.tie(wide, narrow)
    assert ties(facts)


# --- couple and noshrink ------------------------------------------------------------------------


def test_couple_makes_each_row_one_unit(facts):
    left = facts.couple(grid(2, 3), 1)
    assert ties(facts) == {(1, 2), (1, 3), (4, 5), (4, 6)}
    assert left.tolist() == [[1, 1, 1], [4, 4, 4]]
    assert varying(left) == (0,)


def test_couple_where_nothing_varies(facts):
    factor = on_dim(labels(1, 2), 0, (2, 3))
    assert facts.couple(factor, 1).tolist() == factor.tolist()
    assert ties(facts) == set()


def test_couple_with_what_always_stays_freezes_the_row(facts):
    facts.couple(torch.tensor([[1, 0, 3], [4, 5, 6]]), 1)
    assert ties(facts) == {(1, 3), (4, 5), (4, 6)}
    assert freezes(facts) == [([1], TIED)]


def test_noshrink_freezes_what_varies_there_only(facts):
    facts.noshrink(on_dim(labels(1, 2), 1, (3, 2)), 1, "because")
    assert freezes(facts) == [([1, 2], "because")]
    assert ties(facts) == set()


def test_noshrink_couples_what_varies_elsewhere_too(facts):
    facts.noshrink(grid(2, 3), 0, "because")
    assert ties(facts) == {(1, 4), (2, 5), (3, 6)}
    assert facts.freezes == []


def test_noshrink_of_another_dimension_says_nothing(facts):
    facts.noshrink(on_dim(labels(1, 2), 1, (3, 2)), 0, "because")
    assert facts.freezes == facts.ties == []


# --- elementwise --------------------------------------------------------------------------------


def test_elementwise_ties_and_the_first_operand_speaks(facts):
    a, b = tagged((2, 3, 4), d1=[1, 2, 3]), tagged((2, 3, 4), d1=[4, 5, 6])
    factors = facts.elementwise([a, b], (2, 3, 4))
    assert ties(facts) == {(1, 4), (2, 5), (3, 6)}
    assert described(factors) == [((1,), [1, 2, 3])]
    assert factors[0].shape == (2, 3, 4)


def test_elementwise_aligns_trailing_dimensions(facts):
    a, b = tagged((2, 4, 3), d2=[1, 2, 3]), tagged((3,), d0=[4, 5, 6])
    assert described(facts.elementwise([a, b], (2, 4, 3))) == [((2,), [1, 2, 3])]
    assert ties(facts) == {(1, 4), (2, 5), (3, 6)}


def test_elementwise_ties_three_operands(facts):
    operands = [tagged((2, 2), d1=[n, n + 1]) for n in (1, 3, 5)]
    facts.elementwise(operands, (2, 2))
    assert ties(facts) == {(1, 3), (2, 4), (1, 5), (2, 6)}


def test_an_operand_of_size_one_is_broadcast_and_asks_nothing(facts):
    a, b = tagged((2, 3), d1=[1, 2, 3]), tagged((2, 1))
    assert described(facts.elementwise([a, b], (2, 3))) == [((1,), [1, 2, 3])]
    assert facts.ties == facts.freezes == []


def test_an_operand_without_labels_keeps_the_size(facts):
    a, b = tagged((2, 3), d1=[1, 2, 3]), tagged((2, 3))
    factors = facts.elementwise([b, a], (2, 3))
    assert freezes(facts) == [([1, 2, 3], UNLABELLED)]
    assert described(factors) == [((1,), [1, 2, 3])]


def test_operands_that_vary_along_different_dimensions_both_speak(facts):
    a, b = tagged((2, 3, 1), d1=[1, 2, 3]), tagged((2, 1, 2), d2=[4, 5])
    factors = facts.elementwise([a, b], (2, 3, 2))
    assert described(factors) == [((2,), [4, 5]), ((1,), [1, 2, 3])]
    assert facts.ties == facts.freezes == []


def test_several_factors_along_a_dimension_are_tied_in_order(facts):
    a = Tagged((1, 2), (labels(1, 2).reshape(1, 2), labels(3, 4).reshape(1, 2)))
    b = Tagged((1, 2), (labels(5, 6).reshape(1, 2), labels(7, 8).reshape(1, 2)))
    facts.elementwise([a, b], (1, 2))
    assert ties(facts) == {(1, 5), (2, 6), (3, 7), (4, 8)}


def test_unequally_many_factors_are_all_tied(facts):
    a = Tagged((1, 2), (labels(1, 2).reshape(1, 2), labels(3, 4).reshape(1, 2)))
    facts.elementwise([a, tagged((1, 2), d1=[5, 6])], (1, 2))
    assert ties(facts) == {(1, 5), (2, 6), (3, 5), (4, 6)}


def test_distinct_drops_what_does_not_vary():
    still = labels(1).expand(2, 3)
    assert distinct([[still], []]) == ()
