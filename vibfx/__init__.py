"""vibfx: makes a trained PyTorch network smaller and faster, and proves that the result is right."""

from vibfx.coupling import analyze
from vibfx.equivalence import verify
from vibfx.planning import PruningPlan, plan
from vibfx.tracing import trace

__all__ = ["PruningPlan", "analyze", "plan", "trace", "verify"]
