"""vibfx makes a trained PyTorch network smaller and faster, and proves the result right."""

from vibfx.applying import apply
from vibfx.compression import Compression, compress
from vibfx.coupling import Coupling, analyze
from vibfx.data import Loader, load_data
from vibfx.equivalence import verify
from vibfx.errors import VibfxError
from vibfx.export import export_onnx
from vibfx.gates import VIBGate, information
from vibfx.inspection import Inspection, inspect
from vibfx.metrics import measure
from vibfx.model_files import load, load_model
from vibfx.output_folder import save
from vibfx.planning import PruningPlan, plan
from vibfx.printer import format_graph
from vibfx.tracing import trace
from vibfx.training import fine_tune, train

__all__ = [
    "Compression",
    "Coupling",
    "Inspection",
    "Loader",
    "PruningPlan",
    "VIBGate",
    "VibfxError",
    "analyze",
    "apply",
    "compress",
    "export_onnx",
    "fine_tune",
    "format_graph",
    "information",
    "inspect",
    "load",
    "load_data",
    "load_model",
    "measure",
    "plan",
    "save",
    "trace",
    "train",
    "verify",
]
