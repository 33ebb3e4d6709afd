"""What benchmarks start from."""

import numpy as np
import pytest
import torch
from starting import NETWORKS, start

from vibfx.errors import InputError


def test_every_example_network_is_listed():
    expected = ("lenet-300-100", "lenet5", "residual", "residual-projection", "vgg", "resnet20")
    assert expected == NETWORKS


def test_a_network_that_is_not_trained_here_needs_its_weights():
    with pytest.raises(InputError, match="--weights"):
        start("resnet20", "cifar10.npz", seed=0, weights=None)


def test_weights_are_those_of_the_checkpoint(tmp_path):
    from cifar_networks import ResNet20  # of the examples, which starting makes importable

    model, file = ResNet20(), tmp_path / "resnet20.th"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    images, labels = np.zeros((40, 32, 32, 3), np.uint8), np.arange(40) % 10
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    data, found = start("resnet20", str(tmp_path / "data.npz"), seed=0, weights=str(file))
    assert torch.equal(found.linear.weight, model.linear.weight)
    assert not found.training
    assert data.preprocessing.mean == (0.485, 0.456, 0.406)
