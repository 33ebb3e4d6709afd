"""Training gated graphs: whole, or in parts for a loop of your own."""

from vibfx.training.engine import Hardware
from vibfx.training.phases import fine_tune, train
from vibfx.training.shrinking import shrink, unshrink

__all__ = ["Hardware", "fine_tune", "shrink", "train", "unshrink"]
