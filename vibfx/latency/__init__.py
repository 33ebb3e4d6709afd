"""How long a graph takes in ONNX Runtime, as a function of which units are left of it."""

from vibfx.latency.model import LatencyModel, latency_model
from vibfx.latency.steps import unit_steps

__all__ = ["LatencyModel", "latency_model", "unit_steps"]
