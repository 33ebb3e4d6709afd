"""Find out which inputs a model takes, without its numbers."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from vibfx.silence import silenced

aten = torch.ops.aten

# Two examples, since one might be taken for no batch at all.
_BATCH = 2

# Not the poolings to a size that is given: they make as much of any map.
_MAKE_MAPS = {aten.convolution, aten.max_pool2d_with_indices, aten.avg_pool2d}


# Behind these, a map can live on in another form, as a transformer's patches do.
_LEAVE_MAPS = {
    aten.native_layer_norm,
    aten.bmm,
    aten._scaled_dot_product_flash_attention_for_cpu,
}


@dataclass(frozen=True)
class Result:
    """What came of one run.

    Attributes:
        output: The shape of the first tensor of the result for one example, without the batch.
        last_map: The width of the last feature map of more than one pixel that a convolution or a
            pooling made; 0 where there was none, and where attention or layer norms follow.
    """

    output: tuple[int, ...]
    last_map: int


class DryRun:
    """Runs a copy of a model whose tensors have shapes, but no content and no memory.

    Args:
        model: The copy, in evaluation mode.
        mode: Where its tensors live.
    """

    def __init__(self, model: nn.Module, mode: FakeTensorMode) -> None:
        self._model, self._mode = model, mode
        self._results: dict[tuple[int, ...], Result | None] = {}

    @classmethod
    def of(cls, model: nn.Module) -> "DryRun | None":
        """For a model of the user's; None where it cannot be copied."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            with FakeCopyMode(mode):
                return cls(copy.deepcopy(model).eval(), mode)
        except Exception:  # the model is the user's code, and may raise anything
            return None

    def __call__(self, shape: tuple[int, ...]) -> Result | None:
        """Run it on a batch of float32 examples of one shape.

        Returns:
            What came of it; None if the model does not take that shape, or does not return one
            result an example.
        """
        if shape not in self._results:
            self._results[shape] = self._run(shape)
        return self._results[shape]

    def _run(self, shape: tuple[int, ...]) -> Result | None:
        maps = _LastMap()
        try:
            with silenced(), torch.no_grad(), self._mode, maps:
                returned = self._model(torch.empty(_BATCH, *shape))
        except Exception:  # a wrong shape shows as any error at all
            return None
        tensors = [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
        if not tensors or not tensors[0].dim() or tensors[0].shape[0] != _BATCH:
            return None
        return Result(tuple(tensors[0].shape[1:]), maps.width)


class _LastMap(TorchDispatchMode):
    """Notes how wide the last feature map is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.width = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in _MAKE_MAPS:
            value = made[0] if isinstance(made, tuple) else made
            if value.dim() == 4 and value.shape[-1] > 1:
                self.width = value.shape[-1]
        elif func.overloadpacket in _LEAVE_MAPS:
            self.width = 0
        return made
