"""The report of made-up results: table, sums, picture, and what did not work."""

import math
import xml.etree.ElementTree as ET

import pytest
from zoo import summary
from zoo.picture import picture
from zoo.table import cells, failures, report

TP = {"built": True, "runs": True, "equal": True, "status": "runs", "build_s": 1.0, "prune_s": 1.0}
GOOD = {
    "name": "torchvision/good",
    "family": "torchvision",
    "note": "",
    "status": "exact",
    "trace_s": 3.0,
    "analyze_s": 0.5,
    "plan_s": 0.2,
    "prune_s": 0.3,
    "removable": 0.987,
    "units": 1234,
    "error": 2e-15,
    "control": "one unit",
    "onnx": 1.5e-6,
    "tp": TP,
}
UNTRACED = {
    "name": "timm/bad",
    "family": "timm",
    "note": "2 blocks",
    "status": "TraceError: a | b",
    "tp": {"built": True, "runs": False, "equal": False, "status": "RuntimeError: no"},
}
WRONG = {
    **{k: v for k, v in GOOD.items() if k not in ("error", "control", "onnx")},
    "name": "torchvision/wrong",
    "status": "EquivalenceError: differs",
    "tp": {},
}
BLIND = {**GOOD, "name": "torchvision/blind", "control": "not seen", "onnx": "ParityError: x"}
ALL = [GOOD, WRONG, BLIND, UNTRACED]


def test_row_of_a_good_model():
    row = ("good", "yes", "98.7", "1,234", "2e-15", "1", "2e-06", "3.00", "0.50", "0.50")
    assert cells(GOOD) == (*row, "yes", "yes", "yes", "2.00", "0.50")


def test_row_of_a_failure_names_its_kind():
    row = cells(UNTRACED)
    assert row[:2] == ("bad (2 blocks)", "no")
    assert row[4] == "TraceError"
    assert row[10:12] == ("yes", "no")
    assert row[-1] == "-"
    assert cells(WRONG)[4] == "EquivalenceError"


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("one unit", "1"),
        ("one unit, try 3", "1 (3)"),
        ("a unit of every group", "all"),
        ("not seen", "not seen"),
    ],
)
def test_control_in_short(found, shown):
    assert cells({**GOOD, "control": found})[5] == shown


def test_a_limit_after_the_verdict_shows_as_the_control():
    record = {k: v for k, v in GOOD.items() if k != "control"}
    row = cells({**record, "stopped": "time limit of 9 s (in negative control)"})
    assert row[4:6] == ("2e-15", "time limit")


def test_exact_needs_the_negative_control():
    assert [summary.exact(r) for r in ALL] == [True, False, False, False]


def test_ratio_is_only_taken_where_both_made_a_network():
    assert summary.ratio(GOOD) == pytest.approx(0.5)
    assert summary.ratio(GOOD, with_trace=True) == pytest.approx(2.0)
    assert summary.ratio(WRONG) is None
    assert summary.ratio({**GOOD, "tp": {**TP, "status": "nothing pruned"}}) is None


def test_geometric_mean():
    assert summary.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert math.isnan(summary.geometric_mean([]))


def test_sums():
    text = "\n".join(summary.summarize(ALL))
    assert "**4 models.** Traced: 3 of 4 (75.0 %)." in text
    assert "negative control: 1 of 4 (25.0 %), 1 of 3 (33.3 %) of those traced" in text
    assert "Comparison failed: 1. Nothing removable: 0." in text
    assert "agrees within 1e-4: 1 of 2 (50.0 %)" in text
    assert "Both run (1 models)" in text
    assert "geometric mean 0.50; with tracing 2.00" in text


def test_sums_of_nothing_do_not_fail():
    assert "**0 models.**" in "\n".join(summary.summarize([]))
    assert "<svg" in picture([])


def test_every_failure_is_told_in_its_own_words():
    text = failures(ALL)
    assert "torchvision/good" not in text
    assert "- timm/bad: `TraceError: a | b`; Torch-Pruning: `RuntimeError: no`" in text
    assert "- torchvision/wrong: `EquivalenceError: differs`" in text
    assert "control: `not seen`; ONNX: `ParityError: x`" in text


def test_report_has_a_table_a_family():
    text = report(ALL, {"Date": "2026-01-01"})
    assert text.index("- Date: 2026-01-01") < text.index("## torchvision") < text.index("## timm")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({row.count(" | ") for row in rows}) == 1  # as many cells in every row


def test_picture_is_well_formed_and_names_every_model():
    root = ET.fromstring(picture(ALL))
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "torchvision/good: 98.7 %" in titles
    assert "torchvision/good: 0.50" in titles
    assert not any("timm/bad" in title for title in titles)
