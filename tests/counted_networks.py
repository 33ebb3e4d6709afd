"""Small networks whose costs are counted, and their cuts."""

import numpy as np
import torch
from networks import Residual, lenet, traced
from torch import nn

from vibfx.passes import PruneChannels
from vibfx.planning import plan_units


class Shared(nn.Module):
    """A linear that is used twice, on sequences of five vectors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.mix(torch.relu(self.mix(x)))))


def grouped():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


NETWORKS = {
    "lenet": (lenet, (1, 28, 28)),
    "residual": (lambda: Residual(4), (1, 8, 8)),
    "identity": (lambda: Residual(4, projection=False), (1, 8, 8)),
    "grouped": (grouped, (4, 6, 6)),
    "shared": (Shared, (5, 6)),
}


def network(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    return traced(build().eval(), shape)


def keep_first(coupling, **widths):
    """Keep the first units of each group: ``_0=3`` keeps three of the group named 0."""
    keep = np.zeros(coupling.units, dtype=bool)
    for group in coupling.groups:
        keep[group.start : group.start + widths[f"_{group.name}"]] = True
    return keep


def cut(graph, coupling, keep):
    return PruneChannels(plan_units(graph, coupling, keep))(graph).graph_module


def counted(measures):
    return {"flops": measures.flops, "params": measures.parameters}
