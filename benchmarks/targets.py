"""State a target, get it: five kinds of network, three targets each, no setting of their own.

    cd benchmarks
    python targets.py

Each network is trained on the scanned digits that come with scikit-learn, then compressed to each
target with the same options. Prints a Markdown table: what is left, and the share of the budget
that is used, of several the one that binds; the run fails where that is not 97 to 100 %.
"""

import argparse
import itertools
import time

import torch
from facts import facts
from starting import trained
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.vision_transformer import VisionTransformer

import vibfx
from vibfx.budgets import parse_target

TARGETS = ("flops=0.5", "params=0.2", "flops=0.25,params=0.3")
HEAD = """\
| Network | Target | FLOPs left % | Parameters left % | Used of the budget % | \
Test accuracy % before | after | Seconds |
|---|---|--:|--:|--:|--:|--:|--:|"""


def mlp() -> nn.Module:
    """Three hidden layers."""
    widths = (64, 256, 128, 64)
    layers = [nn.Flatten()]
    for inner, outer in itertools.pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def vgg() -> nn.Module:
    """Convolutions in pairs, and a head on the flattened map."""
    layers: list[nn.Module] = []
    for inner, outer in ((1, 32), (32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if inner == outer else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, inner, H, W] -> [N, outer, H, W]``."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def residual() -> nn.Module:
    """Four blocks, in two widths."""
    blocks = (Block(1, 24), Block(24, 24), nn.MaxPool2d(2), Block(24, 48), Block(48, 48))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def mobilenet() -> nn.Module:
    """Inverted residuals of torchvision's MobileNetV2."""
    blocks = [InvertedResidual(a, b, s, 4) for a, b, s in ((16, 16, 1), (16, 24, 2), (24, 24, 1))]
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def vit() -> nn.Module:
    """Torchvision's vision transformer: 16 patches, 3 blocks of 4 heads."""
    model = VisionTransformer(8, 2, 3, 4, 32, 96, num_classes=10)
    model.conv_proj = nn.Conv2d(1, 32, 2, 2)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision starts it at zero
    return model


NETWORKS = {"mlp": mlp, "vgg": vgg, "residual": residual, "mobilenet": mobilenet, "vit": vit}


def main() -> None:
    """Train and compress; a row a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--epochs", type=int, default=60, help="of a compression, in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = vibfx.load_data("digits", batch_size=64, seed=options.seed)
    missed = []
    print(HEAD, flush=True)
    for name in options.networks:
        torch.manual_seed(options.seed)
        model = trained(NETWORKS[name](), data, 30)
        for target in options.targets:
            begin = time.perf_counter()
            report = vibfx.compress(
                model, data, target=target, epochs=options.epochs, seed=options.seed
            ).report
            left = {"flops": report.shares.flops, "params": report.shares.params}
            used = max(left[b.kind] / b.share for b in parse_target(target))
            if not 0.97 <= used <= 1.0:
                missed.append(f"{name} {target}")
            print(
                f"| {name} | {target} | {100 * left['flops']:.2f} | {100 * left['params']:.2f} "
                f"| {100 * used:.1f} | {100 * (report.before.score.accuracy or 0):.2f} "
                f"| {100 * (report.after.score.accuracy or 0):.2f} "
                f"| {time.perf_counter() - begin:.0f} |",
                flush=True,
            )
    print()
    for name, value in facts("python targets.py", ("vibfx", "torch")).items():
        print(f"- {name}: {value}")
    if missed:
        raise SystemExit(f"not within 97 to 100 % of the budget: {', '.join(missed)}")


if __name__ == "__main__":
    main()
