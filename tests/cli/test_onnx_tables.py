"""ONNX files as tables."""

import io
from pathlib import Path

from rich.console import Console

from vibfx.benching import FileBench, Timing
from vibfx.cli.onnx_tables import show_benches, show_description
from vibfx.export.description import Description, Value
from vibfx.training.evaluation import Score


def shown(show, *arguments, **options):
    console = Console(record=True, width=120, file=io.StringIO())
    show(*arguments, console, **options)
    return console.export_text()


def rows(text):
    lines = (line for line in text.splitlines() if line.startswith(("│", "┃")))
    return [[c.strip() for c in line.replace("┃", "│").split("│")[1:-1]] for line in lines]


def benches(*paths, score=(None, None), peak=5_000_000):
    first = (Timing(1, 1, 2.0, 3.0, 9), Timing(0, 8, 10.0, 12.0, 9))
    second = (Timing(1, 1, 0.5, 0.6, 9), Timing(0, 8, 20.0, 25.5, 9))
    return [
        FileBench(Path(paths[0]), 2_000_000, peak, first, 0.0, score[0]),
        FileBench(Path(paths[1]), 99_000, None, second, 0.0123, score[1]),
    ]


def test_files_and_their_times_beside_the_first():
    found = rows(shown(show_benches, benches("out/a.onnx", "out/b.onnx")))
    assert found[:3] == [
        ["file", "size", "memory", "differs by"],
        ["a.onnx", "2.00 MB", "5.00 MB", ""],
        ["b.onnx", "99.0 kB", "unknown", "1.2e-02"],
    ]
    assert found[4:] == [
        ["a.onnx", "1", "1", "2.000", "3.000", "1.00"],
        ["b.onnx", "1", "1", "0.500", "0.600", "4.00"],
        ["a.onnx", "one a core", "8", "10.000", "12.000", "1.00"],
        ["b.onnx", "one a core", "8", "20.000", "25.500", "0.50"],
    ]


def test_with_data_there_is_the_accuracy_too():
    score = Score(accuracy=0.91, agreement=1.0), Score(accuracy=0.9, agreement=0.97)
    found = rows(shown(show_benches, benches("a/x.onnx", "b/x.onnx", score=score)))
    assert found[0][-2:] == ["accuracy", "same answer"]
    assert [row[0] for row in found[1:3]] == ["a/x.onnx", "b/x.onnx"]  # their names alone are one
    assert [row[-2:] for row in found[1:3]] == [["91.00 %", ""], ["90.00 %", "97.00 %"]]


def test_what_is_in_a_file():
    found = Description(
        inputs=(Value("input", "float32", ("batch", 3, "height", "width")),),
        outputs=(Value("output", "float32", ("batch", 100)),),
        operators={"Conv": 3, "Relu": 2},
        parameters=12_345,
        bytes=51_000,
        opset=20,
        metadata={"target": "flops=0.5", "classes": [f"c{number}" for number in range(100)]},
    )
    text = shown(show_description, found, name="model.onnx")
    cells = dict(row for row in rows(text) if len(row) == 2)
    assert cells["input"] == "input: float32 batch x 3 x height x width"
    assert cells["parameters"] == "12,345"
    assert cells["operators"] == "Conv 3, Relu 2 (opset 20)"
    assert cells["target"] == "flops=0.5"
    assert "(100 in all)" in text
    assert "c11" in text
    assert "c12" not in text
    assert "did not write" not in text


def test_a_file_of_somebody_else():
    found = Description((), (), {}, 0, 10, 17, {})
    assert "vibfx did not write this file" in shown(show_description, found, name="x.onnx")
