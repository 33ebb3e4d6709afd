"""What a compression starts from: the graph, the data, and what is to be learnt."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from vibfx.data import Data, inputs_and_labels
from vibfx.data.synthesis import synthetic_data
from vibfx.errors import DataError
from vibfx.graph import shape_of
from vibfx.input_shape import GuessedShape, guess_input_shape
from vibfx.metrics import measure
from vibfx.tracing import trace
from vibfx.training.objectives import Distillation, Loss, LossFunction, Objective, Supervised

# Without data: how many inputs are made, and for how many multiply-accumulates of a forward pass on
# a CPU (five times those of as many inputs for ResNet-20), but no fewer than make a batch or two.
_MADE_INPUTS = 1024
_MADE_FLOPS = 2e11
_FEWEST_MADE_INPUTS = 160


def traced(
    model: nn.Module,
    data: Data | None,
    shape: tuple[int, ...] | None,
    seed: int,
    place: torch.device,
    stage: Callable[[str], None],
) -> tuple[fx.GraphModule, Data]:
    """The model as a graph; where there are no data, those that are made from it.

    Args:
        model: A trained model.
        data: What there is.
        shape: That of one example, where there is no data and the user said it.
        seed: Of made inputs.
        place: Where inputs are made.
        stage: Called with a few words when that begins.

    Raises:
        TraceError: The model cannot be captured.
        InputError: There is no data, and nothing says what shape the input has.
    """
    if data is not None:
        return trace(model, _example(data)), data
    found = GuessedShape(shape, "as told") if shape else guess_input_shape(model)
    generator = torch.Generator().manual_seed(seed)
    graph = trace(model, torch.randn(2, *found.shape, generator=generator))
    count = _MADE_INPUTS
    if place.type == "cpu":  # where large networks would take hours
        affordable = round(_MADE_FLOPS / max(measure(graph).flops, 1.0))
        count = max(_FEWEST_MADE_INPUTS, min(count, affordable))
    named = "x".join(map(str, found.shape))
    stage(f"no data: making {count:,} inputs of {named} ({found.reason}) from the model")
    return graph, synthetic_data(graph, found.shape, count=count, seed=seed, device=place)


def _example(data: Data) -> Tensor:
    x, _ = inputs_and_labels(next(iter(data.train)))
    return x[:2]


def _check_classes(graph: fx.GraphModule, data: Data) -> None:
    """Refuse classes that the model has no scores for."""
    (output,) = graph.graph.find_nodes(op="output")
    shapes = [shape_of(node) for node in output.all_input_nodes]
    _, labels = inputs_and_labels(next(iter(data.train)))
    wanted = () if labels is None else tuple(labels.shape[1:])
    if len(shapes) != 1 or len(shapes[0]) < 2 or shapes[0][2:] != wanted:
        raise DataError(
            f"the model returns {' and '.join(map(str, shapes))} for two examples, which are no "
            "scores of classes for each label",
            where=data.name,
            hint="Pass a loss of your own, of the model's outputs and the labels, or data without "
            "labels.",
        )
    if shapes[0][1] < len(data.classes):
        raise DataError(
            f"the model tells {shapes[0][1]} classes apart, the data has {len(data.classes)}",
            where=data.name,
        )


def loss_on_labels(
    graph: fx.GraphModule, data: Data, loss: Loss | LossFunction | None
) -> Objective | None:
    """The loss on the labels; None where there are none.

    Raises:
        DataError: The loss does not fit the labels, or the labels do not fit the model.
    """
    if data.labels == "none":
        if loss is not None:
            raise DataError(
                "a loss is asked for, but the data has no labels",
                where=data.name,
                hint="Leave it out.",
            )
        return None
    if loss is None and data.labels == "values":
        raise DataError(
            "the labels are numbers, which may mean several things",
            where=data.name,
            hint="Say which loss to take: mse for values, bce for yes and no.",
        )
    if loss in (None, "cross-entropy"):
        _check_classes(graph, data)
    return Supervised(loss or "cross-entropy")


def objective_of(graph: fx.GraphModule, loss: Objective | None, distill: float | None) -> Objective:
    """The data term: the loss on the labels, the original's outputs, or some of both.

    Args:
        graph: The original.
        loss: On the labels, where there are any.
        distill: The share of the original's outputs; by default all where there are no labels.
    """
    share = float(loss is None) if distill is None else distill
    if share == 0.0 and loss is not None:
        return loss
    return Distillation(graph, loss if share < 1.0 else None, share)
