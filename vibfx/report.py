"""What a compression did, in numbers; how they are shown is the command line's business."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

from vibfx.export import Export
from vibfx.metrics import Layer, Measures, Shares
from vibfx.training.course import PhaseReport
from vibfx.training.evaluation import Score


@dataclass(frozen=True)
class LayerChange:
    """One layer's width and cost, before and after."""

    name: str
    width_before: int
    width_after: int
    weights_before: int
    weights_after: int
    flops_before: float
    flops_after: float


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Attributes:
        parameters: All parameters.
        weights: Weights of convolutions and linears.
        flops: Multiply-accumulates for one example.
        features: Elements of all hidden feature maps for one example.
        onnx_bytes: Size of the ONNX file.
        onnx_nodes: Nodes of the ONNX graph.
        any_size: Whether the ONNX file takes images of any height and width.
        score: On the test set.
        latency_ms: Median of one example in ONNX Runtime, one CPU thread.
    """

    parameters: int
    weights: int
    flops: float
    features: float
    onnx_bytes: int
    onnx_nodes: int
    any_size: bool
    score: Score
    latency_ms: float


@dataclass(frozen=True)
class Variant:
    """The result in another precision.

    Attributes:
        precision: Such as ``"int8"``.
        file: The file's name.
        problem: Why there is no such file; empty where there is.
        bytes: Size of the file.
        score: On the test set.
        error: The squared error of its outputs to those of the file in float32 on the validation
            split, over their variance.
        in_float: The operators that compute in float32 nevertheless, and how many of each.
        latency_ms: Median of one example in ONNX Runtime, one CPU thread.
    """

    precision: str
    file: str
    problem: str = ""
    bytes: int = 0
    score: Score = field(default_factory=Score)
    error: float = 0.0
    in_float: Mapping[str, int] = field(default_factory=dict)
    latency_ms: float = 0.0

    def timed(self, latency_ms: float) -> "Variant":
        """With its latency."""
        return replace(self, latency_ms=latency_ms)


@dataclass(frozen=True)
class Report:
    """What a compression did.

    Attributes:
        model: Class or file of the model.
        data: The data set's name.
        caution: What to know of the data before trusting the result; may be empty.
        target: The target, as it was given.
        seed: The seed.
        before: The original network.
        after: The compressed one.
        phases: What training did, one after the other.
        shares: What is left: r_W, r_N, FLOPs, parameters.
        layers: Layer by layer.
        units: How many units there were.
        units_left: How many are left.
        equivalence_error: Rewritten against gated graph, in float64.
        parity: Largest difference of ONNX Runtime to the graph, relative.
        variants: The result in other precisions.
        interrupted: Whether Ctrl-C ended training early.
        seconds: How long it all took.
        versions: Of what it was made with.
    """

    model: str
    data: str
    caution: str
    target: str
    seed: int
    before: Side
    after: Side
    phases: tuple[PhaseReport, ...]
    shares: Shares
    layers: tuple[LayerChange, ...]
    units: int
    units_left: int
    equivalence_error: float
    parity: float
    variants: tuple[Variant, ...]
    interrupted: bool
    seconds: float
    versions: dict[str, str]

    def to_json(self) -> str:
        """The report as text."""
        return json.dumps(asdict(self), indent=1)

    def summary(self) -> dict[str, Any]:
        """What was achieved, in a few numbers."""
        sides = {"before": self.before, "after": self.after}
        return {
            "target": self.target,
            "flops": self.shares.flops,
            "parameters": self.shares.params,
            "latency_ms": {name: side.latency_ms for name, side in sides.items()},
            "score": {name: asdict(side.score) for name, side in sides.items()},
        }


def side(measures: Measures, export: Export, score: Score, latency_ms: float) -> Side:
    """One side of the comparison from what was measured."""
    return Side(
        parameters=measures.parameters,
        weights=measures.weights,
        flops=measures.flops,
        features=measures.features,
        onnx_bytes=export.bytes,
        onnx_nodes=export.nodes,
        any_size=export.any_size,
        score=score,
        latency_ms=latency_ms,
    )


def layer_changes(before: Measures, after: Measures) -> tuple[LayerChange, ...]:
    """Layer by layer; a layer that is used twice stands twice, one that is gone has width 0."""
    left: dict[str, list[Layer]] = {}
    for layer in after.layers:
        left.setdefault(layer.name, []).append(layer)
    found = []
    for old in before.layers:
        new = left[old.name].pop(0) if left.get(old.name) else None
        found.append(
            LayerChange(
                name=old.name,
                width_before=old.shape[0],
                width_after=new.shape[0] if new else 0,
                weights_before=old.weights,
                weights_after=new.weights if new else 0,
                flops_before=old.flops,
                flops_after=new.flops if new else 0.0,
            )
        )
    return tuple(found)


def versions() -> dict[str, str]:
    """Of the packages that decide the result."""
    names = ("vibfx", "torch", "onnx", "onnxruntime", "onnxscript", "safetensors")
    return {name: version(name) for name in names}
