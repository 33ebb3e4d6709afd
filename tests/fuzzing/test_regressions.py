"""Networks on which the fuzzer once found something, made small; the name says what was wrong."""

import pytest

from fuzzing.checking import Tally, check, prepare
from fuzzing.description import network, step

FOUND = {
    "a part of a split goes whole, noted along another dimension": network(
        (5,), step("linear_on_channels"), step("to_sequence", [], [0, 11]), step("split"), seed=21
    ),
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
    "what is added to scaled channels may be the same for all of them": network(
        (4, 4),
        step("linear_attention", [0, 0], [23]),
        step("mix_tokens", [0, 0], [0, 19, 0, 0, 0, 8, 2, 20]),
        seed=95,
    ),
    "a constant that two nodes stand for is not scaled twice": network(
        (1, 6, 6),
        step("conv", [0, 0], [21, 18, 19, 2, 5, 7, 21, 23]),
        step("to_sequence", [0, 4], [6, 3, 12, 6, 23, 8, 15, 11]),
        step("attention", [0, 3], [2, 22, 10, 9, 0, 15, 18, 13]),
        step("add_tokens", [1, 0], [17, 3, 14, 3, 16, 18, 20, 16]),
        step("reduce", [1, 5], [22, 7, 6, 2, 22, 8, 18, 19]),
        seed=38,
    ),
    "the one gate of a tensor without labels": network(
        (6, 5), step("linear_on_channels", [0], [4]), step("linear_on_channels"), seed=18
    ),
    "the only channel of a layer has no label that could say what it is multiplied by": network(
        (1, 6, 6),
        step("conv", [0, 0], [18, 0, 5, 19, 14, 0, 14, 1]),
        step("batch_norm", [2, 1], [20, 19, 11, 2, 22, 11, 7, 11]),
        step("group_norm", [0, 0], [3, 6, 8, 18, 9, 20, 23, 21]),
        step("conv", [2, 1], [16, 2, 1, 1, 20, 18, 9, 7]),
        step("glu", [0, 2], [12, 21, 21, 10, 3, 10, 1, 18]),
        step("concat", [0, 4], [11, 2, 18, 19, 0, 13, 23, 3]),
        step("activation", [0, 5], [5, 4, 4, 2, 16, 9, 11, 5]),
        step("stack", [1, 4], [0, 7, 4, 10, 3, 14, 9, 14]),
        step("batch_norm", [2, 1], [20, 19, 11, 2, 22, 11, 7, 11]),
        seed=62,
    ),
    "rows of pixels do not go where a shuffle makes them of channels": network(
        (3, 4, 4),
        step("weight_norm", [0, 0], [0, 0, 18, 21, 5, 3, 20, 20]),
        step("to_sequence", [2, 3], [5, 7, 14, 2, 11, 13, 22, 21]),
        step("squeeze_excite", [2, 0], [21, 18, 3, 23, 7, 14, 12, 2]),
        step("linear_on_channels", [1, 0], [7, 11, 13, 14, 3, 4, 15, 15]),
        step("pixels", [1, 2], [14, 15, 17, 9, 21, 4, 22, 7]),
        step("combine", [5, 5], [18, 21, 5, 4, 5, 18, 10, 5]),
        step("to_sequence", [0, 1], [19, 10, 1, 12, 17, 23, 11, 20]),
        step("weight_norm", [5, 2], [23, 3, 12, 22, 10, 23, 14, 17]),
        seed=22,
    ),
    "all parts of a split are scaled, and what reads them": network(
        (4, 4),
        step("linear_on_channels", [0, 0], [15, 0, 0, 0, 0, 0, 0, 0]),
        step("split", [0, 0], [0, 0, 0, 5, 21, 1, 13, 4]),
        step("mix_tokens", [0, 1], [8, 16, 17, 18, 6, 8, 20, 1]),
        step("linear_on_channels", [3, 5], [23, 1, 0, 10, 5, 11, 23, 21]),
        seed=36,
    ),
    "the two channels of a gated unit stay where they are all there is": network(
        (4, 4),
        step("linear_on_channels", [0, 0], [9, 0, 0, 2, 3, 10, 1, 11]),
        step("attention", [5, 3], [18, 22, 4, 2, 16, 3, 10, 9]),
        step("glu", [0, 2], [6, 3, 14, 16, 18, 13, 15, 14]),
        step("glu", [0, 2], [6, 3, 14, 16, 18, 13, 15, 14]),
        step("linear_attention", [2, 2], [14, 12, 1, 1, 5, 0, 19, 1]),
        seed=40,
    ),
    "a norm along pixels does not work on a constant that stands for all of them": network(
        (6, 5),
        step("linear_on_channels", [0, 0], [4]),
        step("to_image"),
        step("grouped_conv", [2, 1], [8, 8, 11, 22, 0, 23, 3, 2]),
        step("weight_norm", [0, 5], [19, 9, 3, 1, 13, 5, 1, 11]),
        step("add_tokens", [0, 5], [19, 12, 16, 14, 8, 10, 9, 23]),
        step("norm_of_all", [0, 5], [8, 8, 11, 22, 0, 23, 3, 2]),
        seed=32,
    ),
}

# A table cut along one dimension froze what it coupled, and was then taken for uncut for ever.
ENDLESS = network(
    (5,),
    step("linear_on_channels", [0, 0], [0, 20, 7, 7, 23, 6, 6, 18]),
    step("concat", [1, 2], [21, 6, 13, 10, 9, 5, 3, 23]),
    step("activation", [0, 4], [12, 0, 9, 18, 6, 19, 2, 3]),
    step("activation", [0, 2], [6, 17, 11, 8, 19, 19, 3, 19]),
    step("pad_channels", [2, 2], [2, 3, 2, 17, 18, 15, 5, 6]),
    step("to_sequence", [0, 4], [0, 14, 17, 16, 14, 22, 8, 16]),
    seed=2,
)


def test_an_analysis_comes_to_an_end():
    tally = Tally()
    assert prepare(ENDLESS, tally) is None
    assert tally["graphs: nothing removable"] == 1


@pytest.mark.parametrize("name", FOUND)
def test_what_the_fuzzer_found(name):
    tally = Tally()
    gated = prepare(FOUND[name], tally)
    for mask in range(5):
        check(gated, tally, mask)
    assert tally["pairs: checked"] > 0
