"""What a compression hands over: ONNX files, each checked and measured."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import fx, nn

from vibfx.any_size import agree_on_other_sizes, export_for_any_size, takes_any_size
from vibfx.data import Data
from vibfx.errors import ExportError, ModelFileError, ParityError
from vibfx.export import Export, export_onnx, latencies
from vibfx.export.description import describe
from vibfx.export.fp16 import halve
from vibfx.export.int8 import quantize
from vibfx.export.onnx_module import OnnxModule
from vibfx.graph import digest, shape_of
from vibfx.inputs import tensor_inputs
from vibfx.metrics import Shares, measure, shares
from vibfx.planning import PruningPlan
from vibfx.report import LayerChange, Side, Variant, layer_changes, side
from vibfx.training.evaluation import Score, evaluate

Precision = Literal["int8", "fp16"]
"""What a network can be written in beside float32."""

# How large the squared error of a variant's outputs may be, over the variance of the outputs of the
# file in float32.
_TOLERANCE: Mapping[Precision, float] = {"int8": 0.05, "fp16": 1e-3}


@dataclass(frozen=True)
class Delivered:
    """What was measured of the files; the attributes are those of ``Report``."""

    before: Side
    after: Side
    shares: Shares
    layers: tuple[LayerChange, ...]
    parity: float
    variants: tuple[Variant, ...]


class Delivery:
    """Writes the files of a result into a folder, checks and measures them.

    Does the original's part of that at once: what cannot be exported is seen before any training.

    Args:
        model: The original.
        graph: What it was traced to.
        data: Its test set is what is reported; on its validation split variants are checked.
        score: Measures a module on batches, beside the original.
        folder: Where files are written.
        name: What the model is called.

    Raises:
        ExportError: The original cannot be written as ONNX.
        ParityError: ONNX Runtime gives something else than the original.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: fx.GraphModule,
        data: Data,
        score: Callable[[nn.Module, Any], Score],
        folder: Path,
        *,
        name: str,
    ) -> None:
        self._graph, self._data, self._score, self._folder = graph, data, score, folder
        self._any_size = takes_any_size(model, graph)
        pixels = data.preprocessing
        self._metadata: dict[str, Any] = {
            "version": version("vibfx"),
            "model": name,
            "source": digest(graph),
            "mean": pixels and pixels.mean,
            "std": pixels and pixels.std,
            "size": [shape_of(node)[1:] for node in tensor_inputs(graph)],
            "classes": data.classes or None,
        }
        self._original = self._export(graph, "original.onnx")
        self._score_before = score(graph, data.test)

    def check_sizes(self, gated: fx.GraphModule, small: fx.GraphModule) -> None:
        """See whether a rewritten graph still takes images of any size, where the original does."""
        self._any_size = self._any_size and agree_on_other_sizes(gated, small)

    def finish(
        self,
        small: fx.GraphModule,
        plan: PruningPlan,
        *,
        target: str,
        precisions: Sequence[Precision] = (),
    ) -> Delivered:
        """Write ``model.onnx`` and what it is asked for in other precisions, and measure all.

        Args:
            small: The compressed graph.
            plan: What was removed.
            target: What was aimed at.
            precisions: In what else it is written: ``model.int8.onnx``, ``model.fp16.onnx``. One
                whose outputs differ too much, or that cannot be made, is not left there.

        Raises:
            ExportError: The graph cannot be written as ONNX.
            ParityError: ONNX Runtime gives something else than the graph.
        """
        text = plan.to_json().encode()
        self._metadata |= {"plan": hashlib.sha256(text).hexdigest(), "target": target}
        exported = self._export(small, "model.onnx")
        made = [self._variant(kind, exported.path) for kind in precisions]
        paths = [self._original.path, exported.path]
        paths += [self._folder / variant.file for variant in made if not variant.problem]
        before_ms, after_ms, *others = latencies(paths, small)
        before, after = measure(self._graph), measure(small)
        return Delivered(
            before=side(before, self._original, self._score_before, before_ms),
            after=side(after, exported, self._score(small, self._data.test), after_ms),
            shares=shares(before, after),
            layers=layer_changes(before, after),
            parity=exported.difference,
            variants=tuple(
                variant if variant.problem else variant.timed(others.pop(0)) for variant in made
            ),
        )

    def _export(self, graph: fx.GraphModule, file: str) -> Export:
        export = export_for_any_size if self._any_size else export_onnx
        return export(graph, self._folder / file, metadata=self._metadata)

    def _variant(self, kind: Precision, path: Path) -> Variant:
        out = path.with_suffix(f".{kind}.onnx")
        try:
            return self._checked(kind, path, out)
        except (ExportError, ModelFileError, ParityError) as refusal:
            out.unlink(missing_ok=True)
            return Variant(kind, out.name, problem=refusal.what)

    def _checked(self, kind: Precision, path: Path, out: Path) -> Variant:
        in_float: Mapping[str, int] = {}
        if kind == "int8":
            in_float = quantize(path, out, self._data.validation)
        else:
            halve(path, out)
        describe(out)  # which has it checked
        module = OnnxModule(out)
        error = evaluate(module, self._data.validation, original=OnnxModule(path)).error
        assert error is not None  # there is an original
        if not error <= _TOLERANCE[kind]:
            raise ParityError(
                f"its outputs miss {100 * error:.3g} % of the variance, "
                f"allowed {100 * _TOLERANCE[kind]:g} %"
            )
        return Variant(
            kind,
            out.name,
            bytes=out.stat().st_size,
            score=self._score(module, self._data.test),
            error=error,
            in_float=dict(in_float),
        )
