"""The report: what goes where, and that it survives JSON."""

import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from networks import traced
from reports import REPORT
from tasks import convnet

import vibfx
from vibfx.export import Export
from vibfx.metrics import Layer, Measures
from vibfx.report import LayerChange, layer_changes, side, versions
from vibfx.training.evaluation import Score


def measures(*widths):
    layers = tuple(
        Layer(f"{name}.weight", (width, 3, 5, 5), uses)
        for (name, width), uses in zip(widths, (9.0, 4.0), strict=True)
    )
    return Measures(parameters=5, weights=4, flops=3.0, features=2.0, layers=layers)


def test_json_holds_every_field_with_its_value():
    read = json.loads(REPORT.to_json())
    expected = asdict(REPORT)
    expected |= {name: list(expected[name]) for name in ("layers", "phases", "variants")}
    assert read == expected
    assert list(read)[:4] == ["model", "data", "caution", "target"]
    assert read["before"]["flops"] == 40_000_000
    assert json.loads(replace(REPORT, seed=4).to_json())["seed"] == 4


def test_a_side_is_made_of_what_was_measured():
    found = side(
        measures(("a", 8), ("b", 6)),
        Export(Path("x"), 1e-6, 7, 900, any_size=True),
        Score(accuracy=0.75),
        1.5,
    )
    assert asdict(found) == {
        "parameters": 5,
        "weights": 4,
        "flops": 3.0,
        "features": 2.0,
        "onnx_bytes": 900,
        "onnx_nodes": 7,
        "any_size": True,
        "score": {"accuracy": 0.75, "loss": None, "agreement": None, "error": None},
        "latency_ms": 1.5,
    }


def test_layers_are_compared_one_by_one_in_their_order():
    found = layer_changes(measures(("a", 8), ("b", 6)), measures(("a", 2), ("b", 6)))
    assert found == (
        LayerChange("a", 8, 2, 600, 150, 5400.0, 1350.0),
        LayerChange("b", 6, 6, 450, 450, 1800.0, 1800.0),
    )


def test_a_layer_that_is_gone_has_nothing_left():
    whole = vibfx.measure(traced(convnet(), (1, 8, 8)))
    first, *others = whole.layers
    found = layer_changes(whole, replace(whole, layers=tuple(others)))
    gone = LayerChange(first.name, 8, 0, first.weights, 0, first.flops, 0.0)
    assert found == (gone, *layer_changes(whole, whole)[1:])


def test_a_layer_that_is_used_twice_stands_twice():
    twice = measures(("a", 8), ("a", 8))
    assert [change.flops_after for change in layer_changes(twice, twice)] == [5400.0, 2400.0]


def test_versions_are_those_installed():
    names = ("vibfx", "torch", "onnx", "onnxruntime", "onnxscript", "safetensors")
    assert versions() == {name: version(name) for name in names}


def test_a_summary_holds_what_was_aimed_at_and_what_was_achieved():
    found = REPORT.summary()
    assert (found["target"], found["flops"]) == ("flops=0.25", 0.245)
    assert found["latency_ms"] == {"before": 2.5, "after": 0.75}
    assert found["score"]["after"]["accuracy"] == 0.9787
