"""Train a small network on MNIST and save it, ready for ``vibfx compress``.

    cd examples
    python train_mnist.py lenet5 mnist:DIR lenet5.pt
    vibfx compress lenet5.pt --data mnist:DIR --target flops=0.12,params=0.025 --out lenet5

The residual networks are classes of this folder, so their files need ``--trust mnist_networks``.
"""

import argparse

import torch
from mnist_networks import NETWORKS
from torch import nn
from torch.nn import functional as F

import vibfx


def main() -> None:
    """Train, report the test error, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("file", help="where to save the model")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = vibfx.load_data(options.data, seed=options.seed)
    model = NETWORKS[options.network]()
    train(model, data.train, options.epochs)
    print(f"{options.network}: test error {100 * test_error(model, data.test):.2f} %")
    torch.save(model.eval(), options.file)


def train(model: nn.Module, loader: vibfx.Loader, epochs: int) -> None:
    """Adam, the rate falling to zero along a half cosine."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for epoch in range(1, epochs + 1):
        model.train()
        for x, labels in loader:
            loss = F.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


@torch.no_grad()
def test_error(model: nn.Module, loader: vibfx.Loader) -> float:
    """Share of wrong answers."""
    model.eval()
    wrong = seen = 0
    for x, labels in loader:
        wrong += int((model(x).argmax(dim=1) != labels).sum())
        seen += len(labels)
    return wrong / seen


if __name__ == "__main__":
    main()
