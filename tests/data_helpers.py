"""What the tests of data sets share."""

import importlib.util

import numpy as np
import pytest
import torch

from vibfx.data import load_data
from vibfx.errors import DataError

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


def all_of(loader):
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


def samples_of(data):
    """Every sample of the three sets as bytes."""
    return [x.numpy().tobytes() for part in parts_of(data) for x in all_of(part)[0]]


def parts_of(data):
    return data.train, data.validation, data.test


def refusal(spec, **options):
    with pytest.raises(DataError) as caught:
        load_data(str(spec), **options)
    return str(caught.value)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def arrays(*, train=40, test=10, shape=(8, 8, 3), classes=4, **replaced):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % classes,
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % classes,
        **replaced,
    }
