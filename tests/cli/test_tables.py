"""The tables on the screen: the numbers shown are those of the report."""

import io
import re
from dataclasses import replace
from pathlib import Path

from reports import REPORT
from rich.console import Console

from vibfx.cli.tables import show_report
from vibfx.output_folder import FILES
from vibfx.report import Variant
from vibfx.training.evaluation import Score


def shown(report, out="out"):
    console = Console(record=True, width=100, file=io.StringIO())
    show_report(report, Path(out), console)
    return console.export_text()


def rows(text):
    """The tables' rows by their first cell, without the lines around them."""
    cells = [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if row}


def words(text):
    return " ".join(text.split())


def test_layers():
    found = rows(shown(REPORT))
    assert found["layer"] == ["width", "", "weights", "", "left", "FLOPs left"]
    assert found["features.0"] == ["64", "→ 32", "1,728", "→ 864", "50.00 %", "50.00 %"]
    assert found["head"] == ["10", "→ 10", "51,200", "→ 5,120", "10.00 %", "10.00 %"]


def test_a_layer_that_is_gone():
    gone = replace(REPORT.layers[0], width_after=0, weights_after=0, flops_after=0.0)
    found = rows(shown(replace(REPORT, layers=(gone, REPORT.layers[1]))))
    assert found["features.0"] == ["64", "→ 0", "1,728", "→ 0", "0.00 %", "0.00 %"]


def test_totals():
    found = rows(shown(REPORT))
    assert found[""] == ["before", "after", "left"]
    assert found["parameters"] == ["1,234,567", "123,456", "10.00 %"]
    assert found["weights (r_W)"] == ["1,200,000", "120,000", "10.00 %"]
    assert found["FLOPs"] == ["40,000,000", "9,800,000", "24.50 %"]
    assert found["feature maps (r_N)"] == ["20,000", "8,000", "40.00 %"]
    assert found["ONNX file"] == ["4.94 MB", "98.7 kB", "2.00 %"]
    assert found["ONNX nodes"] == ["17", "16", ""]
    assert found["test accuracy"] == ["98.12 %", "97.87 %", ""]
    assert found["latency, 1 thread"] == ["2.500 ms", "0.750 ms", "30.00 %"]


def test_other_precisions():
    int8 = Variant(
        "int8", "model.int8.onnx", bytes=30_000, score=Score(accuracy=0.9712), latency_ms=0.5,
        in_float={"Softmax": 2, "Erf": 1},
    )  # fmt: skip
    fp16 = Variant("fp16", "model.fp16.onnx", problem="its outputs are off")
    text = shown(replace(REPORT, variants=(int8, fp16)))
    found = rows(text)
    assert found["float32"] == ["98.7 kB", "97.87 %", "0.750 ms", ""]
    assert found["int8"] == ["30.0 kB", "97.12 %", "0.500 ms", "Softmax 2, Erf 1"]
    assert found["fp16"] == ["not written", "", "", "its outputs are off"]
    assert "out: model.onnx, model.int8.onnx, model.pt2, graph.json" in words(text)
    assert "in other precisions" not in shown(REPORT)


def test_a_file_for_images_of_any_size_is_said_to_be():
    after = replace(REPORT.after, any_size=True)
    assert "any height and width" in words(shown(replace(REPORT, after=after)))
    assert "any height and width" not in words(shown(REPORT))


def test_the_words_around_them():
    text = words(shown(REPORT, "results/net"))
    assert "net.pt on digits, target flops=0.25" in text
    assert "proved equal in float64 (relative error 3.9e-16)" in text
    assert "ONNX Runtime agrees within 4.1e-07." in text
    assert "Accuracy lost: 0.25 points." in text
    assert "Of the test examples, 98.50 % get the original's answer." in text
    assert (
        "On the validation split: accuracy 93.41 % after compress, "
        "accuracy 97.77 % after fine-tune." in text
    )
    assert "Written to results/net: " + ", ".join(FILES) in text
    assert "interrupted" not in text
    assert "no labels" not in text
    assert "not faster" not in text


def test_accuracy_that_was_gained():
    better = replace(REPORT, after=replace(REPORT.after, score=Score(accuracy=0.9912)))
    assert "Accuracy gained: 1.00 points" in words(shown(better))


def test_values_have_a_loss_instead_of_an_accuracy():
    sides = [replace(REPORT.before, score=Score(loss=value, error=0.25)) for value in (0.5, 0.625)]
    last = replace(REPORT.phases[1], validation=Score(loss=0.7), kept=False)
    text = shown(replace(REPORT, before=sides[0], after=sides[1], phases=(last,)))
    assert rows(text)["test loss"] == ["0.5", "0.625", ""]
    assert "test accuracy" not in rows(text)
    assert "The outputs explain 75.00 % of the original's variance." in words(text)
    assert "On the validation split: loss 0.7 after fine-tune (not kept)." in words(text)


def test_without_labels_the_error_is_what_there_is():
    sides = [replace(REPORT.before, score=Score(error=value)) for value in (0.0, 0.0125)]
    phase = replace(REPORT.phases[0], validation=Score(error=0.015))
    text = words(shown(replace(REPORT, before=sides[0], after=sides[1], phases=(phase,))))
    assert "Accuracy" not in text
    assert "There were no labels: what was learnt are the original's outputs." in text
    assert "On the validation split: relative error 0.015 after compress." in text


def test_what_went_otherwise_than_hoped_is_said():
    slower = replace(
        REPORT,
        interrupted=True,
        caution="Take [care].",
        after=replace(REPORT.after, latency_ms=3.0),
    )
    text = words(shown(slower))
    assert "Take [care]." in text
    assert "Training was interrupted; this is what there was by then." in text
    assert "not faster in ONNX Runtime on this machine" in text
    assert rows(shown(slower))["latency, 1 thread"][-1] == "120.00 %"


def test_brackets_in_names_are_shown_as_they_are():
    odd = replace(
        REPORT,
        model="net[/x].pt",
        data="data[bold]",
        layers=(replace(REPORT.layers[0], name="blocks[red]"),),
    )
    text = shown(odd, "out[/a]")
    assert "net[/x].pt on data[bold]" in words(text)
    assert "blocks[red]" in rows(text)
    assert "Written to out[/a]: model.onnx" in words(text)
