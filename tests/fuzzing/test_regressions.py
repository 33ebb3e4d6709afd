"""Networks on which the fuzzer once found something, made small; the name says what was wrong."""

import pytest

from fuzzing.checking import Tally, check, prepare
from fuzzing.description import network, step

FOUND = {
    "gate in code whose result nothing reads": network(
        (3, 4, 4), step("conv"), step("to_vector", [1], [4]), step("conv"), seed=1
    ),
    "attention draws no random numbers, so it goes with its block": network(
        (4, 4), step("split"), step("grouped_queries"), seed=25
    ),
    "a size is not counted on what is gone itself": network(
        (6, 5), step("ready_made_attention"), seed=27
    ),
    "a recurrent layer of one hidden channel": network(
        (4, 4), step("split"), step("recurrent"), seed=77
    ),
    "a gate along two dimensions of a product with itself does not fold": network(
        (6, 5), step("linear_on_channels"), step("products", [0, 0], [1]), seed=10
    ),
    "a factor along tokens does not pass a mean over them": network(
        (1, 6, 6),
        step("pixels", [5, 2], [7, 7, 16]),
        step("conv", [0, 5], [7, 7, 16, 12]),
        step("selective_kernel", [2, 5], [23]),
        step("windows", [0, 1], [15]),
        seed=23,
    ),
    "as many channels as tokens: a gate's values follow the dimension they stand along": network(
        (4, 4),
        step("linear_on_channels", [0, 0], [17]),
        step("mix_tokens", [0, 0], [9, 5]),
        seed=41,
    ),
    "what goes set by set may cut the input off": network(
        (6, 5),
        step("linear_on_channels", [3, 4], [18, 18, 19, 21, 18, 11, 13, 11]),
        step("linear", [0, 4], [21, 1, 19, 19, 1, 11, 2, 12]),
        step("activation", [3, 1], [1, 23, 22, 3, 14, 18, 5, 3]),
        step("conv", [0, 0], [14, 15, 18, 1, 6, 1, 10, 13]),
        step("combine", [1, 3], [10, 18, 2, 22, 17, 13, 12, 0]),
        step("activation", [5, 5], [20, 23, 4, 13, 2, 17, 6, 4]),
        step("add_tokens", [0, 4], [10, 1, 9, 8, 8, 4, 1, 13]),
        step("combine", [3, 1], [8, 12, 19, 4, 12, 0, 3, 7]),
        step("mix_tokens", [5, 2], [23, 9, 9, 1, 19, 7, 9, 7]),
        seed=49,
    ),
    "a weight takes up a factor along the channels it reads, and along nothing else": network(
        (6, 5),
        step("attention", [0, 0], [9, 0, 0, 0, 0, 23, 19, 0]),
        step("to_image", [0, 0], [2, 0, 0, 0, 0, 0, 0, 0]),
        seed=17,
    ),
    "the one gate of a tensor without labels": network(
        (6, 5), step("linear_on_channels", [0], [4]), step("linear_on_channels"), seed=18
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_the_fuzzer_found(name):
    tally = Tally()
    gated = prepare(FOUND[name], tally)
    for mask in range(5):
        check(gated, tally, mask)
    assert tally["pairs: checked"] > 0
