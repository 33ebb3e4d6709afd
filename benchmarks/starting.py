"""The trained networks that benchmarks start from, each with its data."""

import contextlib
import sys
from pathlib import Path

import torch
from torch import nn

import vibfx
from vibfx.data import Data
from vibfx.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import mnist_networks
from cifar_networks import MEAN, STD, resnet20
from train_mnist import train

NETWORKS = (*mnist_networks.NETWORKS, "resnet20")
EPOCHS = 4


def start(network: str, data: str, *, seed: int, weights: str | None) -> tuple[Data, nn.Module]:
    """The data, and the network trained on it, in evaluation mode.

    Args:
        network: One of ``NETWORKS``. All but ResNet-20 are trained here, for four epochs.
        data: As for ``load_data``.
        seed: Of the data's order, of the first weights and of the training.
        weights: The checkpoint of ResNet-20.

    Raises:
        InputError: ResNet-20 comes without its checkpoint.
    """
    torch.manual_seed(seed)
    if network == "resnet20":
        if weights is None:
            raise InputError("resnet20 is not trained here", hint="Pass a checkpoint: --weights.")
        return vibfx.load_data(data, seed=seed, mean=MEAN, std=STD), resnet20(weights)
    loaded, model = vibfx.load_data(data, seed=seed), mnist_networks.NETWORKS[network]()
    return loaded, trained(model, loaded, EPOCHS)


def trained(model: nn.Module, data: Data, epochs: int) -> nn.Module:
    """Train a classifier in place; it is in evaluation mode then."""
    with contextlib.redirect_stdout(sys.stderr):  # the tables alone go to standard output
        train(model, data.train, epochs)
    return model.eval()
