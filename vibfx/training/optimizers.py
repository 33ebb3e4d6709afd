"""Optimizers of gated graphs: their learning rates, and parameters that become smaller."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from vibfx.errors import PlanError
from vibfx.gates import gates_of
from vibfx.graph import tensor_at
from vibfx.metrics import layers_of

aten = torch.ops.aten

# The gates' learning rate over the weights'. The main lever: at 1 most gates stay open, beyond 30
# little is gained.
GATE_RATE = 30.0

# Which of a tensor's indices stay, for each dimension that becomes smaller.
Cuts = Sequence[tuple[int, Tensor]]


def parameter_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """A gated graph's parameters for an optimizer: weights, and gates at 30 times their rate.

    Args:
        module: A gated graph.
        lr: The weights' learning rate.
    """
    of_gates = [p for gate in gates_of(module).values() for p in gate.parameters()]
    known = {id(p) for p in of_gates}
    weights = [p for p in module.parameters() if id(p) not in known]
    return [{"params": weights, "lr": lr}, {"params": of_gates, "lr": GATE_RATE * lr}]


def normalized_weights(module: fx.GraphModule) -> list[nn.Parameter]:
    """The weights whose size does not matter: all that reads their layers is a batch norm.

    Args:
        module: A graph.
    """
    read: dict[str, set[Any]] = {}
    for node, layer in layers_of(module):
        read.setdefault(layer.weight, set()).update(user.target for user in node.users)
    names = [name for name, readers in read.items() if readers == {aten.batch_norm.default}]
    return [weight for name in names if isinstance(weight := tensor_at(module, name), nn.Parameter)]


def take(value: Tensor, cuts: Cuts) -> Tensor:
    """The indices that stay; dimensions of size 1 are left alone."""
    for dim, kept in cuts:
        if value.shape[dim] > 1:
            value = value.index_select(dim, kept.to(value.device))
    return value


class Successor:
    """What takes the place of a parameter that becomes smaller.

    Args:
        old: The parameter.
        cuts: Which of its indices stay.

    Attributes:
        parameter: The new one, with what is left of the old one's gradient.
    """

    def __init__(self, old: nn.Parameter, cuts: Cuts) -> None:
        self._shape, self._cuts = old.shape, cuts
        self.parameter = nn.Parameter(take(old.detach(), cuts), requires_grad=old.requires_grad)
        if old.grad is not None:
            self.parameter.grad = take(old.grad, cuts)

    def state(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """What is left of an optimizer's state of the old parameter.

        Raises:
            PlanError: A tensor has neither one number nor the dimensions of the parameter.
        """
        return {key: self._left_of(key, value) for key, value in old.items()}

    def _left_of(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        pairs = zip(value.shape, self._shape, strict=False)
        if value.dim() != len(self._shape) or any(size not in (1, own) for size, own in pairs):
            raise PlanError(
                f"the optimizer keeps {key!r} of shape {tuple(value.shape)} for a parameter of "
                f"shape {tuple(self._shape)}, which cannot be cut with it",
                hint="Use an optimizer whose state has the parameters' shapes: Adam, AdamW, SGD.",
            )
        return take(value, self._cuts)


def replace_parameters(
    optimizer: torch.optim.Optimizer, successors: Mapping[nn.Parameter, Successor]
) -> None:
    """Let an optimizer go on with smaller parameters and what it knows of what is left of them.

    Works for every optimizer whose state of a parameter is numbers, or tensors with the parameter's
    dimensions (Adam's moments, SGD's momentum), some of which may have size 1.

    Args:
        optimizer: Changed in place.
        successors: What takes the place of each parameter that becomes smaller.

    Raises:
        PlanError: Something is kept in another shape. Nothing is changed then.
    """
    states: dict[Tensor, dict[str, Any]] = {
        new.parameter: new.state(optimizer.state[old])
        for old, new in successors.items()
        if old in optimizer.state
    }
    for group in optimizer.param_groups:
        group["params"] = [
            successors[p].parameter if p in successors else p for p in group["params"]
        ]
    for old in successors:
        optimizer.state.pop(old, None)
    optimizer.state.update(states)
