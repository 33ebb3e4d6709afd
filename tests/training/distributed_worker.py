"""One of several processes that train together; run by test_ranks.py, alone or by ``torchrun``.

torchrun --nproc-per-node 2 distributed_worker.py FOLDER
"""

import sys
from pathlib import Path

import torch
from torch import nn

import vibfx
from vibfx.data import TensorLoader
from vibfx.gates import gates_of
from vibfx.passes import InsertGates
from vibfx.training import Hardware, meter, shrink
from vibfx.training.loop import fit
from vibfx.training.objectives import Supervised
from vibfx.training.ranks import joined, shard

BATCH = 64
CUTS = {15: 3, 30: 2}  # after this step every n-th unit goes


class Phase:
    """Adam without noise, and two cuts on the way."""

    name, units, epochs = "test", 0, 10

    def __init__(self, module):
        self.module = module
        self.optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
        self.sizes = []

    def penalty(self):
        return 1e-4 * vibfx.information(self.module)

    def after_step(self):
        step = len(self.sizes) + 1
        if step in CUTS:
            with torch.no_grad():
                for gate in gates_of(self.module).values():
                    gate.mu[:: CUTS[step]] = 0.0
            assert shrink(self.module, self.optimizer)
        self.sizes.append(sum(p.numel() for p in self.module.parameters()))

    def is_over(self):
        return False

    def left(self):
        return 0, 1.0


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )
    graph = vibfx.trace(model, torch.randn(2, 1, 8, 8))
    module = InsertGates(vibfx.analyze(graph))(graph).graph_module
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.log_sigma2.fill_(-60.0)
    return module


def loader(world):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (5 * BATCH,), generator=generator)
    prototypes = torch.randn(4, 1, 8, 8, generator=generator)
    x = prototypes[labels] + torch.randn(5 * BATCH, 1, 8, 8, generator=generator)
    return TensorLoader(x, labels, batch_size=BATCH // world, shuffle=True, seed=1)


def main():
    """Train; every process writes what it came to."""
    folder = Path(sys.argv[1])
    meter._REPORT_EVERY = 0.0
    with joined() as ranks:
        losses, module, batches = [], network(), loader(ranks.world)
        shard(batches, ranks)
        phase = Phase(module)
        fit(
            module,
            batches,
            phase,
            objective=Supervised(),
            hardware=Hardware("cpu", precision="float32"),
            seed=0,
            on_progress=lambda state: losses.append(state.loss),
        )
        result = {"losses": losses, "sizes": phase.sizes, "state": module.state_dict()}
        torch.save(result, folder / f"{ranks.world}-{ranks.rank}.pt")


if __name__ == "__main__":
    main()
