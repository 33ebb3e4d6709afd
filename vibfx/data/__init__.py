"""Data sets: what the user names with one string becomes three loaders.

Every set is split three ways: the model is trained on ``train``, choices are made by
``validation``, and ``test`` is reported once.
"""

from vibfx.data.batches import Batch, Loader, Normalization, TensorLoader, inputs_and_labels
from vibfx.data.loading import load_data
from vibfx.data.request import Data

__all__ = [
    "Batch",
    "Data",
    "Loader",
    "Normalization",
    "TensorLoader",
    "inputs_and_labels",
    "load_data",
]
