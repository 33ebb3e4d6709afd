"""The data term of the objective: what the outputs of a network are measured against."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from vibfx.errors import InputError

Loss = Literal["cross-entropy", "bce", "mse"]

LossFunction = Callable[[Any, Tensor], Tensor]
"""The mean loss of a batch, of a model's outputs and the labels."""

_FUNCTIONS: dict[str, LossFunction] = {
    "cross-entropy": F.cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
}

# What scores of classes are divided by before they are compared. On a LeNet-5 with 0.8 % of its
# weights it was better than 4.
_TEMPERATURE = 2.0

# What does not change between the examples of a batch is not divided by.
_LEAST_VARIANCE = 1e-8


class Objective(nn.Module):
    """The mean data term of a batch; what it holds moves to the device with it."""

    def forward(self, outputs: Any, x: Tensor, labels: Tensor | None) -> Tensor:
        """The term.

        Args:
            outputs: What the network returns, in its structure; floats are float32.
            x: What it was called with, ``[N, ...]``.
            labels: The labels, ``[N, ...]``; None where there are none.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def share_right(self, outputs: Any, labels: Tensor | None) -> Tensor | None:
        """The share of labels that the largest score meets; see ``share_right``."""
        return share_right(outputs, labels)


class Supervised(Objective):
    """A loss of outputs and labels.

    Args:
        loss: ``"cross-entropy"`` for classes, also one a pixel; ``"bce"`` for yes and no, of scores
            before the sigmoid; ``"mse"`` for values; or a function of outputs and labels.

    Raises:
        InputError: There is no loss of that name.
    """

    def __init__(self, loss: Loss | LossFunction = "cross-entropy") -> None:
        super().__init__()
        if isinstance(loss, str) and loss not in _FUNCTIONS:
            raise InputError(
                f"there is no loss {loss!r}", hint=f"There are {', '.join(get_args(Loss))}."
            )
        self._loss = _FUNCTIONS[loss] if isinstance(loss, str) else loss

    def forward(self, outputs: Any, x: Tensor, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The loss."""
        if labels is None:
            raise InputError(
                "the batches have no labels, which the loss needs",
                hint="Train by Distillation(original), which needs none.",
            )
        term: Tensor = self._loss(outputs, labels)
        return term


class Distillation(Objective):
    """The original's outputs as what is wanted; needs no labels.

    Where the labels are classes and the outputs scores of them, it is the divergence from the
    original's probabilities at a temperature of 2, times its square (Hinton, Vinyals and Dean,
    *Distilling the knowledge in a neural network*, arXiv 1503.02531). Else it is the squared error
    of every output, relative to how much the original's varies between the examples of the batch:
    so it has no unit, and outputs of any structure count alike. On scores it does what matching
    logits does (Ba and Caruana, *Do deep nets really need to be deep?*, arXiv 1312.6184).

    Args:
        original: The graph before anything was done to it, in evaluation mode.
        loss: What is mixed in, on the labels.
        share: The original's share of the sum; the rest is the loss's.

    Attributes:
        original: As given.

    Raises:
        InputError: The share is not above 0 and at most 1, or below 1 without a loss.
    """

    def __init__(
        self, original: fx.GraphModule, loss: Objective | None = None, share: float = 1.0
    ) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0 or (share < 1.0) != (loss is not None):
            raise InputError(
                f"the original cannot have a share of {share:g} of the data term",
                hint="It is above 0 and at most 1, and 1 where there are no labels to learn from.",
            )
        self.original, self._loss, self._share = original, loss, share

    def forward(self, outputs: Any, x: Tensor, labels: Tensor | None) -> Tensor:
        """The divergence or the relative squared error, and the loss with it."""
        with torch.no_grad():
            wanted = self.original(x)
        return self.compare(outputs, wanted, x, labels)

    def compare(self, outputs: Any, wanted: Any, x: Tensor, labels: Tensor | None) -> Tensor:
        """The same, where what the original returns is known already."""
        if _are_scores(outputs, labels):
            error = divergence(in_float32(outputs), in_float32(wanted))
        else:
            error = relative_error(floats(outputs), floats(wanted))
        if self._loss is None:
            return error
        on_labels: Tensor = self._loss(outputs, x, labels)
        return self._share * error + (1 - self._share) * on_labels


def as_objective(given: Objective | Loss | LossFunction | None) -> Objective:
    """What a user may pass for the data term; nothing stands for the cross-entropy."""
    return given if isinstance(given, Objective) else Supervised(given or "cross-entropy")


def floats(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a structure of outputs, in float32 or better."""
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [in_float32(leaf) for leaf in leaves if leaf.is_floating_point()]


def in_float32(value: Any) -> Any:
    """A tensor of half precision as float32; anything else as it is."""
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def relative_error(outputs: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The squared error of each tensor relative to the wanted one's variance, averaged.

    Args:
        outputs: Tensors ``[N, ...]``.
        wanted: Tensors of the same shapes.

    Returns:
        A scalar: 0 where all are equal, 1 where each is the wanted one's mean over the examples.
    """
    terms = [
        F.mse_loss(found, right)
        / (right - right.mean(dim=0)).square().mean().clamp_min(_LEAST_VARIANCE)
        for found, right in zip(outputs, wanted, strict=True)
    ]
    return torch.stack(terms).mean()


def divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of softened probabilities, times the temperature's square.

    Args:
        scores: Scores ``[N, classes, ...]``.
        wanted: Scores of the same shape.

    Returns:
        A scalar, the mean over the examples: 0 where the probabilities are equal.
    """
    found, right = (F.log_softmax(each / _TEMPERATURE, dim=1) for each in (scores, wanted))
    each = F.kl_div(found, right, reduction="none", log_target=True).sum(dim=1)
    return _TEMPERATURE**2 * each.mean()


def _are_scores(outputs: Any, labels: Tensor | None) -> bool:
    """Whether labels are classes and outputs ``[N, classes, ...]`` scores of them."""
    if labels is None or labels.is_floating_point() or not isinstance(outputs, Tensor):
        return False
    return outputs.dim() == labels.dim() + 1


def share_right(outputs: Any, labels: Tensor | None) -> Tensor | None:
    """The share of labels that the largest score meets; None where that has no meaning.

    Args:
        outputs: Scores ``[N, classes, ...]``, or anything else.
        labels: Classes ``[N, ...]``, or anything else.
    """
    if labels is None or not _are_scores(outputs, labels):
        return None
    right: Tensor = (outputs.argmax(dim=1) == labels).double().mean()
    return right
