"""How a graph is run while it is trained: device, precision, memory format, compiler."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from vibfx.data import Loader, TensorLoader
from vibfx.errors import InputError
from vibfx.graph import shape_of
from vibfx.training.objectives import Objective, in_float32
from vibfx.training.ranks import current
from vibfx.training.recompute import recomputed
from vibfx.training.resuming import random_state, set_random_state

aten = torch.ops.aten

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Hardware:
    """What to train on, and how; what is left out is chosen for the best.

    Attributes:
        device: Such as ``"cpu"`` or ``"cuda:1"``; by default CUDA where there is one.
        precision: Of matrix products, the weights staying float32. ``"auto"`` is bfloat16 where the
            hardware multiplies in it, float16 on other CUDA devices, else float32.
        channels_last: Whether an image's channels lie together in memory, which convolutions are
            faster with; by default where a network with 2d convolutions takes its images so.
        compiled: Whether ``torch.compile`` runs the graph; by default on CUDA.
        micro_batch: Run each batch in pieces of at most so many examples, whose gradients add up:
            takes less memory. Batch norms then see one piece at a time. By default whole.
        recompute: Whether activations are computed again in the backward pass instead of being
            kept: takes less memory, for one more forward pass. Goes without ``compiled``.
    """

    device: str | None = None
    precision: Precision = "auto"
    channels_last: bool | None = None
    compiled: bool | None = None
    micro_batch: int | None = None
    recompute: bool = False


# At most this share of a device's free memory is taken by samples.
_ROOM_FOR_DATA = 0.25

# Everything chosen for the best.
AUTOMATIC = Hardware()


def choose_device(name: str | None = None) -> torch.device:
    """The device by this name, or CUDA where there is one, or the CPU.

    Raises:
        InputError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")  # the current one
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"there is no device {name!r} here", hint="Leave --device out.") from error
    return device


class Engine:
    """Runs the steps of one graph, which may be cut between them.

    Args:
        module: The graph, in training mode.
        hardware: What to run it on.

    Attributes:
        device: Where it runs.
    """

    def __init__(self, module: fx.GraphModule, hardware: Hardware) -> None:
        self.device = choose_device(hardware.device)
        self._module = module
        self._dtype = _dtype(hardware.precision, self.device)
        self._channels_last = hardware.channels_last
        self._micro_batch, self._recompute = hardware.micro_batch, hardware.recompute
        self._compiled = _is_compiled(hardware, self.device)
        # Only float16 has too few exponents for gradients.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype is torch.float16)
        self._graph: fx.Graph | None = None
        self._checked: fx.Graph | None = None
        self._is_overrun = False
        self._run: Callable[[Tensor], Tensor] = module
        self._alone: Callable[[], AbstractContextManager[None]] = nullcontext
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32

    def take_in(self, loader: Loader) -> None:
        """Let samples that are held in memory live on the device, where there is room for them."""
        if self.device.type == "cuda" and isinstance(loader, TensorLoader):
            free, _ = torch.cuda.mem_get_info(self.device)
            if loader.nbytes < _ROOM_FOR_DATA * free:
                loader.to(self.device)

    def place(self, x: Tensor) -> Tensor:
        """An input on the device, in the memory format that the graph is run with."""
        x = x.to(self.device, non_blocking=True)
        if x.dim() != 4 or self._overruns():
            return x
        if self._channels_last is None:
            self._channels_last = self._takes_channels_last(x)
        return _to_channels_last(x) if self._channels_last else x

    def __call__(self, x: Tensor) -> Tensor:
        """The graph's outputs for an input that was placed."""
        self._wrap()
        with self.precision():
            return self._run(x)

    def precision(self) -> torch.autocast:
        """Where matrix products have the precision that was chosen."""
        return torch.autocast(
            self.device.type, self._dtype, enabled=self._dtype is not torch.float32
        )

    def _wrap(self) -> None:
        """A graph that is new, or cut: let all processes average its gradients, compile it."""
        if self._graph is self._module.graph:
            return
        self._graph = self._module.graph
        run: Any = recomputed(self._module) if self._recompute else self._module
        if current().world > 1:
            here = [self.device] if self.device.type == "cuda" else None
            run = DistributedDataParallel(run, device_ids=here)
            self._alone = run.no_sync
        self._run = torch.compile(run) if self._compiled else run

    def step(
        self,
        x: Tensor,
        labels: Tensor | None,
        objective: Objective,
        penalty: Callable[[], Tensor | float],
        optimizer: torch.optim.Optimizer,
    ) -> tuple[Tensor, Tensor | None]:
        """Forward and backward, piece by piece where that is asked for, and the optimizer's step.

        Args:
            x: Inputs that were placed.
            labels: Their labels, if there are any, on the device.
            objective: The data term, on the device.
            penalty: What is added to it.
            optimizer: What makes the step.

        Returns:
            The data term, and the share of labels that are met, where that has a meaning.
        """
        self._wrap()
        optimizer.zero_grad(set_to_none=True)
        pieces = math.ceil(len(x) / (self._micro_batch or len(x)))
        terms, met = [], []
        for number, part in enumerate(x.tensor_split(pieces)):
            its_labels = None if labels is None else labels.tensor_split(pieces)[number]
            is_last, share = number == pieces - 1, len(part) / len(x)
            with nullcontext() if is_last else self._alone():
                with self.precision():
                    outputs = pytree.tree_map(in_float32, self._run(part))
                    term = objective(outputs, part, its_labels) * share
                self._scaler.scale(term + penalty() if is_last else term).backward()
            terms.append(term.detach())
            right = objective.share_right(outputs, its_labels)
            met += [] if right is None else [right * share]
        self._scaler.step(optimizer)
        self._scaler.update()
        return torch.stack(terms).sum(), torch.stack(met).sum() if met else None

    def state(self) -> dict[str, Any]:
        """The scale of the gradients."""
        return self._scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with that scale."""
        self._scaler.load_state_dict(state)

    def _overruns(self) -> bool:
        """Whether channels-last would make oneDNN write past its buffers; looked up graph by graph.

        Its strided 1 x 1 convolutions do on AVX2 (torch 2.15) where they read under 8 channels, as
        the shortcuts of a residual network may that is cut.
        """
        if self._checked is not self._module.graph:
            self._checked = self._module.graph
            self._is_overrun = self.device.type == "cpu" and any(
                _is_narrow_and_strided(node) for node in self._module.graph.nodes
            )
        return self._is_overrun

    def _takes_channels_last(self, x: Tensor) -> bool:
        """Try it: a ``view`` further on may ask for the usual format. Leaves no trace."""
        if not any(n.target in _CONVOLUTIONS for n in self._module.graph.nodes):
            return False
        buffers = [(b, b.clone()) for b in self._module.buffers()]
        random = random_state(self.device)
        try:
            with torch.no_grad():
                self._module(_to_channels_last(x))
        except RuntimeError:
            return False
        finally:
            set_random_state(random)
            for buffer, before in buffers:
                buffer.copy_(before)
        return True


def _to_channels_last(x: Tensor) -> Tensor:
    """Images with the channels of a pixel side by side, and with strides that say so.

    One channel lies the same way in both formats; with the usual strides all that follows goes on
    in the usual format, in which a max pool takes up to ten times as long on a CPU.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    return x.as_strided(x.shape, (channels * height * width, 1, channels * width, channels))


def _is_compiled(hardware: Hardware, device: torch.device) -> bool:
    if hardware.recompute and hardware.compiled:
        raise InputError(
            "what is compiled cannot be recomputed piece by piece",
            hint="Leave one of --compile and --recompute out.",
        )
    if hardware.compiled is None:
        return device.type == "cuda" and not hardware.recompute
    return hardware.compiled


def _is_narrow_and_strided(node: fx.Node) -> bool:
    if node.target not in _CONVOLUTIONS:
        return False
    weight, stride = node.args[1], node.args[3] if len(node.args) > 3 else 1
    assert isinstance(weight, fx.Node)
    _, channels, *kernel = shape_of(weight)
    steps = stride if isinstance(stride, (list, tuple)) else [stride]
    return channels < _NARROW and set(kernel) == {1} and set(steps) != {1}


# With 6 channels and fewer the heap is corrupted; a vector has 8.
_NARROW = 8

_CONVOLUTIONS = {aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input}


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[precision]
    if _has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16, so that it pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
