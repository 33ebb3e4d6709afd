"""Train LeNet-5 (Caffe's: 20-50-500) on MNIST and save it, ready for ``vibfx compress``.

python examples/lenet_mnist.py mnist:DIR lenet5.pt
vibfx compress lenet5.pt --data mnist:DIR --target flops=0.1,params=0.02 --out lenet5
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

import vibfx


def lenet5() -> nn.Sequential:
    """The network of the paper's Table 2: two convolutions, two linears, 430,500 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def main() -> None:
    """Train, report the test error, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="mnist:DIR")
    parser.add_argument("file", help="where to save the model")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = vibfx.load_data(options.data, seed=options.seed)
    model = lenet5()
    steps = options.epochs * len(data.train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, options.epochs + 1):
        model.train()
        for x, labels in data.train:
            loss = F.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: test error {100 * test_error(model, data.test):.2f} %")
    torch.save(model.eval(), options.file)


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
