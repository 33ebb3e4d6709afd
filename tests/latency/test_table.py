"""Which widths are measured, and what is noted of them."""

from dataclasses import asdict

import pytest
from fake_runtime import REORDER, measured, time_of

from vibfx.latency.kernels import Kernel
from vibfx.latency.table import LayerTimes, Surface, measure_layer


def layer(shape, free, *, block=16, op="Conv", space=(8, 8), **fields):
    return measure_layer(Kernel(op, space, (), shape, **fields), free, block, measured)


def grid(surface):
    return surface and (surface.first, surface.second)


def test_a_dense_convolution_on_blocks_and_beside_them():
    found = layer((64, 128, 3, 3), (True, True))
    assert grid(found.blocked) == ((0, 16, 32, 48, 64), (0, 8, 15, 16, 32, 64, 96, 128))
    assert grid(found.plain) == ((1, 16, 32, 48, 64), (17, 31, 63, 95, 127))
    for surface, slower in ((found.blocked, 1.0), (found.plain, 1.5)):
        assert surface.times[2][3] == pytest.approx(slower * 32 * surface.second[3] / 1000)
    assert found.blocked.times[0] == (0.0,) * 8
    assert [row[0] for row in found.blocked.times] == [0.0] * 5


def test_a_width_that_cannot_change_is_measured_as_it_is():
    image = layer((64, 3, 7, 7), (True, False))
    assert grid(image.blocked) == ((0, 16, 32, 48, 64), (3,))
    assert image.plain is None
    odd = layer((64, 33, 3, 3), (True, False))
    assert odd.blocked is None
    assert grid(odd.plain) == ((16, 32, 48, 64), (33,))


def test_a_depthwise_convolution_has_one_axis():
    found = layer((64, 1, 3, 3), (True, False), groups=64)
    assert grid(found.blocked) == ((0, 16, 32, 48, 64), (1,))
    assert grid(found.plain) == ((1, 15, 31, 47, 63), (1,))


def test_columns_of_every_group():
    found = layer((128, 64, 3, 3), (True, True), groups=2)
    assert grid(found.blocked) == ((0, 32, 64, 96, 128), (0, 16, 32, 48, 64))
    assert grid(found.plain) == ((2, 30, 62, 94, 126), (15, 31, 47, 63))


def test_whole_groups_of_several_channels():
    found = layer((96, 3, 3, 3), (True, False), groups=32)
    assert found.blocked is None
    assert grid(found.plain) == ((3, 24, 48, 72, 96), (3,))


def test_products_and_what_has_no_blocks_are_measured_anywhere():
    found = layer((10, 64), (False, True), op="Gemm", space=(1,))
    assert found.blocked is None
    assert grid(found.plain) == ((10,), (4, 16, 32, 48, 64))
    assert layer((64, 64, 3, 3), (True, True), block=1).blocked is None


def test_a_width_that_fills_no_block_is_measured_with_the_next_one():
    assert grid(layer((20, 20, 3, 3), (True, True)).blocked) == ((0, 16, 32), (0, 8, 15, 16, 32))


def test_reordering_is_noted_for_an_element():
    assert layer((64, 1, 3, 3), (True, False), groups=64).reorder == pytest.approx(REORDER)
    assert layer((10, 64), (True, True), op="Gemm", space=(1,)).reorder == 0.0


def test_times_are_read_back():
    for found in (layer((32, 32, 3, 3), (True, True)), layer((9, 9), (True, True), op="Gemm")):
        assert LayerTimes.read(asdict(found)) == found


@pytest.mark.parametrize(
    "damage",
    [
        {"blocked": {"first": (1, 2), "second": (1,), "times": ((1.0,),)}},
        {"blocked": {"first": (1,), "second": (1,), "times": ((-1.0,),)}},
        {"blocked": {"first": (1,), "second": (1,), "times": ((float("nan"),),)}},
        {"blocked": {"first": (1,)}},
        {"blocked": 3},
        {"reorder": "soon"},
        {"reorder": None},
    ],
)
def test_what_are_no_times_is_refused(damage):
    whole = asdict(LayerTimes(Surface((1,), (1,), ((time_of(*KERNEL),),)), None, 0.0))
    assert LayerTimes.read(whole)
    with pytest.raises(ValueError, match=r"."):
        LayerTimes.read(whole | damage)
    with pytest.raises(ValueError, match=r"no times"):
        LayerTimes.read(None)


KERNEL = (Kernel("Gemm", (1,), (), (1, 1)), (1, 1))
