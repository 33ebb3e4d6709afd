"""How long a graph takes in ONNX Runtime, as a function of which units are left of it."""

from vibfx.latency.model import LatencyModel, latency_model
from vibfx.latency.nominal import nominal_latency
from vibfx.latency.steps import Step, unit_steps

__all__ = ["LatencyModel", "Step", "latency_model", "nominal_latency", "unit_steps"]
