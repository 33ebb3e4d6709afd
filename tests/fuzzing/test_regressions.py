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
}


@pytest.mark.parametrize("name", FOUND)
def test_what_the_fuzzer_found(name):
    tally = Tally()
    gated = prepare(FOUND[name], tally)
    for mask in range(5):
        check(gated, tally, mask)
    assert tally["pairs: checked"] > 0
