"""Gates trained by Lightning, a compressor beside it.

    pip install "vibfx[examples,demo]"
    python examples/train_with_lightning.py

On the 1,797 scanned digits of scikit-learn; nothing is downloaded.
"""

import lightning
import torch
from mnist_networks import residual
from torch import Tensor, fx
from torch.nn import functional as F

import vibfx
from vibfx.passes import FoldGates, InsertGates, PruneChannels, SetMode
from vibfx.training import Compressor, parameter_groups

EPOCHS = 20


class Compressing(lightning.LightningModule):
    """A gated graph, and what steers it."""

    def __init__(self, gated: fx.GraphModule, target: str) -> None:
        super().__init__()
        self.gated, self.target = gated, target

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gates at 30 times the weights' rate; the compressor knows how many steps there are."""
        optimizer = torch.optim.Adam(parameter_groups(self.gated, lr=1e-3))
        steps = int(self.trainer.estimated_stepping_batches)
        self.compressor = Compressor(self.gated, optimizer, target=self.target, steps=steps)
        return optimizer

    def on_train_start(self) -> None:
        """A graph does not follow ``.train()``."""
        SetMode(training=True)(self.gated)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The data term and the price of what is open."""
        x, labels = batch
        return F.cross_entropy(self.gated(x), labels) + self.compressor.penalty()

    def on_train_batch_end(self, *_: object) -> None:
        """After the optimizer's step: prices move, and what is shut for good leaves the graph."""
        self.compressor.step()

    def on_train_end(self) -> None:
        """The full shape again, the best units within the target open."""
        self.compressor.finish()
        SetMode(training=False)(self.gated)


def main() -> None:
    """Train a network, then gates; cut, prove, fold."""
    lightning.seed_everything(0)
    data = vibfx.load_data("digits", batch_size=32)
    model = residual()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for x, labels in data.train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
    graph = vibfx.trace(model.eval(), next(iter(data.train))[0][:2])
    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(Compressing(gated, "flops=0.4"), data.train)
    small = PruneChannels(vibfx.plan(gated))(gated).graph_module
    print("proved equal:", vibfx.verify(gated, small))
    small = FoldGates()(small).graph_module
    share = vibfx.measure(small).flops / vibfx.measure(graph).flops
    with torch.no_grad():
        hits = torch.cat([(small(x).argmax(1) == labels).float() for x, labels in data.test])
    print(f"FLOPs left: {share:.1%}; test accuracy before a fine-tune: {hits.mean():.2%}")


if __name__ == "__main__":
    main()
