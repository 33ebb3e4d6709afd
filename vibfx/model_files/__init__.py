"""Model files: reads a whole model without running code that its file brings along."""

from vibfx.model_files.loading import load_model

__all__ = ["load_model"]
