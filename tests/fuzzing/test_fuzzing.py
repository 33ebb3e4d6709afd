"""Random networks with random units shut: what is cut and folded computes the same.

The long run, over thousands of other networks, is ``make fuzz``.
"""

import logging

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fuzzing.checking import DESCRIPTIONS, Tally, check, prepare
from fuzzing.description import Description, network, step
from fuzzing.findings import ANALYSIS, failure_of, shrunk

GRAPHS = 24
MASKS = 3

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def tally():
    """Runs the fuzzer once; raises what it finds."""
    counted = Tally()

    @settings(
        max_examples=GRAPHS,
        phases=(Phase.generate,),  # making it smaller takes long: the long run does
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(DESCRIPTIONS)
    def run(description: Description) -> None:
        drawn = prepare(description, counted)
        for mask in range(MASKS if drawn else 0):
            check(drawn, counted, mask, control=mask == 0)

    logging.disable(logging.WARNING)
    try:
        run()
    finally:
        logging.disable(logging.NOTSET)
    return counted


def test_cut_and_folded_graphs_equal_the_gated_ones(tally):
    assert tally["pairs: checked"] >= GRAPHS


def test_the_fuzzer_is_not_vacuous(tally):
    assert tally["graphs"] >= GRAPHS
    assert tally["graphs: nothing removable"] + tally["graphs: not finite"] <= tally["graphs"] / 2
    assert tally["pairs: checked"] >= 0.75 * tally["pairs"]
    assert tally["pairs: a block gone"] > 0


def test_the_check_can_fail(tally):
    assert tally["controls: told apart"] > 10 * tally["controls: same"]


def test_a_description_is_made_smaller_as_long_as_it_fails_alike(monkeypatch):
    def failure(description, mask):
        return "kind" if any(s.kind == "conv" for s in description.steps) else ""

    monkeypatch.setattr("fuzzing.findings.failure_of", failure)
    long = network((3, 4, 4), step("pool", [1], [3]), step("conv", [2], [0, 5]), step("glu"))
    assert shrunk(long, 0, "kind") == network((3, 4, 4), step("conv", [0], [0, 0]))


def test_a_description_is_printed_as_the_code_that_makes_it():
    given_one = network((3, 4, 4), step("conv", [2], [0, 5]), step("glu"), seed=4)
    assert eval(str(given_one), {"network": network, "step": step}) == given_one


def test_failures_are_named_by_what_and_where():
    assert failure_of(network((3, 4, 4)), ANALYSIS) == ""
    unknown = network((3, 4, 4), step("no such step"))
    assert failure_of(unknown, ANALYSIS) == "KeyError in building.py _add: 'no such step'"
