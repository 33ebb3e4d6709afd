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
