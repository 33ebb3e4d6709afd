"""Labels: numbering, factors, and what a removal leaves of a tensor."""

import pytest
import torch

from vibfx.labels import (
    LabelSpace,
    Slot,
    Survivors,
    Tagged,
    compress,
    core,
    on_dim,
    varying,
)


def labels(*numbers):
    return torch.tensor(numbers)


def removed(count, *gone):
    flags = torch.zeros(count, dtype=torch.bool)
    flags[list(gone)] = True
    return flags


def kept(tagged, flags):
    found = Survivors(flags).of(tagged)
    return [None if indices is None else indices.tolist() for indices in found]


# --- numbering ----------------------------------------------------------------------------------


def test_labels_are_numbered_in_order_from_one():
    space = LabelSpace.over([("w", (4, 2, 3), (0, 1)), ("b", (4,), (0,))])
    assert space.slots == (Slot("w", 0, 1, 4), Slot("w", 1, 5, 2), Slot("b", 0, 7, 4))
    assert len(space) == 11
    assert space.slot_of_label().tolist() == [-1, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert space.of_parameter("w") == [Slot("w", 0, 1, 4), Slot("w", 1, 5, 2)]
    assert space.of_parameter("other") == []


def test_a_space_without_parameters_holds_the_label_of_what_stays():
    space = LabelSpace.over([])
    assert len(space) == 1
    assert space.slot_of_label().tolist() == [-1]


def test_parameter_factors_vary_along_their_own_dimension():
    space = LabelSpace.over([("v", (4,), (0,)), ("w", (2, 3), (0, 1))])
    rows, columns = space.factors_of("w", (2, 3))
    assert rows.tolist() == [[5, 5, 5], [6, 6, 6]]
    assert columns.tolist() == [[7, 8, 9], [7, 8, 9]]
    assert space.factors_of("other", (2, 3)) == ()
    assert varying(rows) == (0,)
    assert varying(columns) == (1,)


# --- factors ------------------------------------------------------------------------------------


def test_on_dim_costs_nothing_along_other_dimensions():
    factor = on_dim(labels(1, 2), 1, (5, 2, 7))
    assert factor.shape == (5, 2, 7)
    assert factor.stride() == (0, 1, 0)
    assert factor[4, :, 6].tolist() == [1, 2]


def test_varying_leaves_out_dimensions_of_size_one():
    assert varying(torch.tensor([[1, 2, 3]])) == (1,)
    assert varying(torch.tensor([[1]])) == ()


def test_along_gives_the_factors_of_a_dimension():
    batch, channel = on_dim(labels(1, 2), 0, (2, 3)), on_dim(labels(3, 4, 5), 1, (2, 3))
    tagged = Tagged((2, 3), (batch, channel))
    assert tagged.along(0) == [batch]
    assert tagged.along(-1) == [channel]


def test_compress_finds_where_nothing_varies():
    factor = compress(labels(1, 1, 1, 2, 2, 2).reshape(2, 3))
    assert varying(factor) == (0,)
    assert factor.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_compress_looks_past_the_slices_it_tries_first():
    factor = labels(1, 2, 1, 1, 1)  # the first, the middle and the last are alike
    assert compress(factor).tolist() == [1, 2, 1, 1, 1]
    assert varying(compress(factor)) == (0,)


def test_compress_does_not_spread_out_what_does_not_vary():
    factor = labels(1, 1, 2, 2).reshape(2, 1, 2).expand(2, 10**12, 2)
    assert varying(compress(factor)) == (0,)


def test_core_keeps_what_any_factor_varies_along():
    rows, columns = on_dim(labels(1, 2), 0, (2, 3, 4)), on_dim(labels(3, 4, 5), 1, (2, 3, 4))
    assert [part.shape for part in core(rows, columns)] == [(2, 3, 1), (2, 3, 1)]
    assert core(rows)[0].shape == (2, 1, 1)
    assert core(rows)[0].flatten().tolist() == [1, 2]


def test_core_broadcasts():
    a, b = core(labels(1, 2), on_dim(labels(3, 4, 5), 0, (3, 2)))
    assert a.shape == b.shape == (3, 2)
    assert a[2].tolist() == [1, 2]


# --- what a removal leaves ----------------------------------------------------------------------


def test_a_removal_that_touches_nothing():
    tagged = Tagged((2, 3), (on_dim(labels(1, 2, 3), 1, (2, 3)),))
    assert kept(tagged, removed(5, 4)) == [None, None]


def test_a_removal_along_one_dimension():
    tagged = Tagged((2, 3), (on_dim(labels(1, 2, 3), 1, (2, 3)),))
    assert kept(tagged, removed(4, 2)) == [None, [0, 2]]


def test_an_element_goes_with_any_of_its_factors():
    shape = (2, 4)
    first, second = on_dim(labels(1, 2, 3, 4), 1, shape), on_dim(labels(5, 6, 7, 8), 1, shape)
    assert kept(Tagged(shape, (first, second)), removed(9, 2, 8)) == [None, [0, 2]]


def test_factors_of_two_dimensions_are_cut_apart():
    shape = (3, 2)
    tagged = Tagged(shape, (on_dim(labels(1, 2, 3), 0, shape), on_dim(labels(4, 5), 1, shape)))
    assert kept(tagged, removed(6, 1, 5)) == [[1, 2], [0]]


def test_a_factor_of_two_dimensions_may_lose_rows_or_columns():
    tagged = Tagged((2, 3), (labels(1, 2, 3, 4, 5, 6).reshape(2, 3),))
    assert kept(tagged, removed(7, 1, 2, 3)) == [[1], None]
    assert kept(tagged, removed(7, 2, 5)) == [None, [0, 2]]


def test_what_is_no_box_is_refused():
    tagged = Tagged((2, 3), (labels(1, 2, 3, 4, 5, 6).reshape(2, 3),))
    with pytest.raises(ValueError, match="not whole slices"):
        Survivors(removed(7, 1)).of(tagged)
    with pytest.raises(ValueError, match="not whole slices"):
        Survivors(removed(7, 1, 2, 3, 4)).of(tagged)


def test_label_zero_never_goes():
    tagged = Tagged((2, 4), (on_dim(labels(0, 0, 1, 2), 1, (2, 4)),))
    assert kept(tagged, removed(3, 1)) == [None, [0, 1, 3]]
