"""Products of two tensors, on labels made by hand."""

import pytest
from labels_by_hand import described, freezes, grid, new_facts, tagged, ties
from torch import fx

from vibfx.labels import Tagged
from vibfx.rules.contraction import contract

UNLABELLED = "combined with a tensor whose channels cannot be removed"


@pytest.fixture
def facts():
    return new_facts()


def test_contract_ties_what_is_summed_and_passes_what_is_free(facts):
    source = fx.Graph().placeholder("x")
    x, weight = tagged((8, 2), source, d1=[1, 2]), tagged((3, 2), d0=[5, 6, 7], d1=[3, 4])
    factors = contract(facts, "nc,oc->no", x, weight, "because")
    assert ties(facts) == {(1, 3), (2, 4)}
    assert described(factors) == [((1,), [5, 6, 7])]
    assert factors[0].shape == (8, 3)
    ((node, consumed),) = facts.consumers
    assert node is source
    assert consumed is x.factors[0]


def test_contract_against_an_unlabelled_operand_freezes(facts):
    x, weight = tagged((8, 2)), tagged((3, 2), d0=[5, 6, 7], d1=[3, 4])
    factors = contract(facts, "nc,oc->no", x, weight, "because")
    assert freezes(facts) == [([3, 4], "because")]
    assert described(factors) == [((1,), [5, 6, 7])]


def test_contract_needs_zeros_on_one_side_only(facts):
    left, right = (fx.Graph().placeholder(name) for name in ("left", "right"))
    a, b = tagged((2, 3), left, d1=[1, 2, 3]), tagged((3, 2), right, d0=[4, 5, 6])
    contract(facts, "xy,yz->xz", a, b, "because")
    assert [node for node, _ in facts.consumers] == [left]


def test_contract_needs_no_zeros_where_nothing_goes(facts):
    right = fx.Graph().placeholder("right")
    contract(facts, "xy,yz->xz", tagged((2, 3)), tagged((3, 2), right, d0=[4, 5, 6]), "because")
    assert facts.consumers == []
    assert freezes(facts) == [([4, 5, 6], "because")]


def test_batch_letters_are_carried(facts):
    """Queries times keys: labels of 2 heads by 3 channels leave one label a head."""
    shape = (2, 4, 3)
    q = Tagged(shape, (grid(2, 3).unsqueeze(1).expand(shape),))
    k = Tagged(shape, (grid(2, 3, start=7).unsqueeze(1).expand(shape),))
    factors = contract(facts, "hqc,hkc->hqk", q, k, "because")
    assert described(factors) == [((0,), [1, 4])]
    in_heads = {(1, 2), (1, 3), (4, 5), (4, 6), (7, 8), (7, 9), (10, 11), (10, 12)}
    assert ties(facts) == in_heads | {(1, 7), (4, 10)}
    assert facts.freezes == []


def test_batch_letters_stay_where_the_other_side_has_no_labels(facts):
    shape = (2, 4, 3)
    q = Tagged(shape, (grid(2, 3).unsqueeze(1).expand(shape),))
    contract(facts, "hqc,hkc->hqk", q, Tagged(shape), "because")
    assert ties(facts) == {(1, 2), (1, 3), (4, 5), (4, 6)}
    assert freezes(facts) == [([1, 4], UNLABELLED)]


def test_a_batch_letter_alone_is_tied(facts):
    """Attention times values: one label a head on the left, heads by channels on the right."""
    scores = tagged((2, 4, 5), d0=[1, 2])
    values = Tagged((2, 5, 3), (grid(2, 3, start=3).unsqueeze(1).expand(2, 5, 3),))
    factors = contract(facts, "hqk,hkc->hqc", scores, values, "because")
    assert ties(facts) == {(1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)}
    assert [dims for dims, _ in described(factors)] == [(0, 2), (0,)]


def test_free_and_contracted_against_an_unlabelled_operand_is_carried(facts):
    shape = (5, 2, 3)
    a = Tagged(shape, (grid(2, 3).unsqueeze(0).expand(shape),))
    factors = contract(facts, "nfc,nck->nfk", a, Tagged((5, 3, 4)), "because")
    assert ties(facts) == {(1, 2), (1, 3), (4, 5), (4, 6)}
    assert described(factors) == [((1,), [1, 4])]
    assert factors[0].shape == (5, 2, 4)
    assert facts.freezes == []


def test_free_letters_of_both_sides_pass(facts):
    a, b = tagged((2, 3), d0=[1, 2]), tagged((3, 2), d1=[3, 4])
    factors = contract(facts, "xy,yz->xz", a, b, "because")
    assert described(factors) == [((1,), [3, 4]), ((0,), [1, 2])]
    assert facts.ties == facts.freezes == []
