"""Gates trained with timm's parts: its networks, optimizers, losses and average of weights.

    pip install "vibfx[examples,demo]"
    python examples/train_with_timm.py

On the 1,797 scanned digits of scikit-learn; nothing is downloaded.
"""

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, ModelEmaV3, accuracy
from torch import nn

import vibfx
from vibfx.passes import FoldGates, InsertGates, PruneChannels, SetMode
from vibfx.training import Compressor, parameter_groups

EPOCHS = 20


def main() -> None:
    """Train a network, then gates; cut the average of the weights, prove, fold."""
    torch.manual_seed(0)
    data = vibfx.load_data("digits", batch_size=32)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    criterion = LabelSmoothingCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3)
    for _ in range(EPOCHS):
        for x, labels in data.train:
            optimizer.zero_grad()
            criterion(model(x), labels).backward()
            optimizer.step()
    graph = vibfx.trace(model.eval(), next(iter(data.train))[0][:2])
    print(f"trained: {top1(graph, data):.2f} %")

    gated = InsertGates(vibfx.analyze(graph))(graph).graph_module
    SetMode(training=True)(gated)
    optimizer = create_optimizer_v2(parameter_groups(gated, lr=2e-3), opt="adamw", weight_decay=0)
    average = ModelEmaV3(gated, decay=0.98)
    steps = EPOCHS * len(data.train)
    compressor = Compressor(
        gated, optimizer, target="flops=0.4", steps=steps, copies=[average.module]
    )
    for epoch in range(EPOCHS):
        losses = AverageMeter()
        for x, labels in data.train:
            loss = criterion(gated(x), labels)
            optimizer.zero_grad()
            (loss + compressor.penalty()).backward()
            optimizer.step()
            compressor.step()  # what is shut for good leaves the graph, and its average
            average.update(gated)
            losses.update(loss.item(), len(labels))
        units, flops = compressor.left()
        print(f"epoch {epoch + 1}: loss {losses.avg:.3f}, {units} units, {flops:.0%} of FLOPs")
    compressor.finish()

    averaged = average.module
    SetMode(training=False)(averaged)
    small = PruneChannels(vibfx.plan(averaged))(averaged).graph_module
    print("proved equal:", vibfx.verify(averaged, small))
    small = FoldGates()(small).graph_module
    share = vibfx.measure(small).flops / vibfx.measure(graph).flops
    print(f"FLOPs left: {share:.1%}; before a fine-tune: {top1(small, data):.2f} %")


@torch.no_grad()
def top1(module: nn.Module, data: vibfx.data.Data) -> float:
    """Test accuracy in percent."""
    meter = AverageMeter()
    for x, labels in data.test:
        (found,) = accuracy(module(x), labels)
        meter.update(found.item(), len(labels))
    return float(meter.avg)


if __name__ == "__main__":
    main()
