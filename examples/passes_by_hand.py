"""The whole way through single passes, with a training loop of one's own.

    python examples/passes_by_hand.py

On the 1,797 scanned digits of scikit-learn; nothing is downloaded.
"""

import torch
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.passes import FoldGates, InsertGates, PruneChannels, SetMode
from vibfx.training import shrink, unshrink

torch.manual_seed(0)
data = vibfx.load_data("digits", batch_size=32)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(1024, 10),
)


def accuracy(module: nn.Module) -> str:
    """On the test set."""
    with torch.no_grad():
        hits = [(module(x).argmax(1) == y).float() for x, y in data.test]
    return f"{100 * float(torch.cat(hits).mean()):.2f} %"


# A trained model, to begin with.
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(10):
    for x, y in data.train:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
model.eval()
print("trained:", accuracy(model))

# Trace, analyse, gate.
example = next(iter(data.train))[0][:2]
graph = vibfx.trace(model, example)
coupling = vibfx.analyze(graph)
for group in coupling.groups:
    print(f"group {group.name}: {group.size} units, gated behind {', '.join(group.sites)}")
gated = InsertGates(coupling)(graph).graph_module

# Train weights and gates together: the gates' rate is 30 times the weights'.
SetMode(training=True)(gated)
gates = [p for n, p in gated.named_parameters() if n.startswith("gates.")]
weights = [p for n, p in gated.named_parameters() if not n.startswith("gates.")]
optimizer = torch.optim.Adam([{"params": weights, "lr": 1e-3}, {"params": gates, "lr": 3e-2}])
for _ in range(15):
    for x, y in data.train:
        optimizer.zero_grad()
        (F.cross_entropy(gated(x), y) + vibfx.information(gated, gamma=3e-3)).backward()
        optimizer.step()
    # What is shut for good leaves the graph, so that the next epoch takes less time.
    if shrink(gated, optimizer):
        print(f"in training: {sum(p.numel() for p in gated.parameters()):,} parameters left")
unshrink(gated)  # all is there again, shut: the plan is one for the original network
SetMode(training=False)(gated)
print("gated:", accuracy(gated))

# Cut, prove, fold, export.
plan = vibfx.plan(gated)
small = PruneChannels(plan)(gated).graph_module
print("proved equal:", vibfx.verify(gated, small))
small = FoldGates()(small).graph_module
print("cut:", accuracy(small))
before, after = vibfx.measure(graph), vibfx.measure(small)
print(f"parameters {before.parameters:,} -> {after.parameters:,}")
print(f"FLOPs {before.flops:,.0f} -> {after.flops:,.0f}")
print(vibfx.export_onnx(small, "digits.onnx"))
