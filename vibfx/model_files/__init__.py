"""Model files: reads models without running code that their files bring along, and writes them."""

from vibfx.model_files.loading import load_model
from vibfx.model_files.pretrained import is_name
from vibfx.model_files.results import load

__all__ = ["is_name", "load", "load_model"]
