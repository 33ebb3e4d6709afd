"""Inputs made from a network alone, for where there are no data: what its batch norms remember."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from vibfx.data.batches import TensorLoader
from vibfx.data.request import Data
from vibfx.errors import InputError

aten = torch.ops.aten

OnStep = Callable[[int, int], None]
"""Told how many steps are done, and of how many."""

_BETTER = "Pass real inputs with --data, images without labels for example: they teach far more."
_MADE = f"No data was given, so the inputs were made from what the batch norms remember. {_BETTER}"
_NOISE = f"No data was given, and no batch norm remembers any, so the inputs were noise. {_BETTER}"

_Moments = tuple[Tensor, Tensor]
"""Mean and variance of every channel, ``[C]`` each."""

# Measured on ResNet-20: 30 steps at this rate, in standard deviations of the noise, bring the
# statistics of a batch closer to the running ones than those of a batch of real images are. Half
# the rate leaves twice the distance.
_STEPS = 30
_RATE = 0.2

# Nobody says what units inputs have: bytes deviate by some 64, pixels in [0, 1] by a quarter.
_SCALES = tuple(2.0**power for power in range(-4, 9))

# Statistics are those of a batch, so it is large, as far as activations fit in memory.
_LARGEST_BATCH, _SMALLEST_BATCH = 128, 16
_NUMBERS_IN_A_BATCH = 5_000_000

# Where the arguments of a batch norm stand.
_MEAN, _VARIANCE, _EPSILON = 3, 4, 7


def synthesize(
    graph: fx.GraphModule,
    shape: tuple[int, ...],
    *,
    count: int,
    seed: int,
    device: torch.device,
    on_progress: OnStep | None = None,
) -> Tensor:
    """Make inputs that a network's batch norms cannot tell from those it was trained on.

    A batch starts as Gaussian noise, of the scale that fits best; an image's has the spectrum of
    natural images, amplitudes that fall with the frequency (Field, JOSA A 1987). Then Adam moves
    the inputs until the mean and the variance that each batch norm meets are its running ones, as
    in ZeroQ (Cai et al., CVPR 2020, arXiv 2001.00281) and DeepInversion (Yin et al., CVPR 2020,
    arXiv 1912.08795). The distance is the Kullback-Leibler divergence of the two Gaussians,
    averaged over channels and norms. Where no batch norm keeps statistics, standard noise is all
    there is.

    Args:
        graph: A traced graph in evaluation mode, which is left as it is.
        shape: That of one example.
        count: How many examples.
        seed: Fixes them; each batch has noise of its own.
        device: Where to compute.
        on_progress: Called after every step.

    Returns:
        float32 ``(count, *shape)``, on the CPU.

    Raises:
        InputError: The graph does not take one tensor of floating-point numbers.
    """
    batch = _batch_size(_input_of(graph), shape, count)
    seeds = np.random.SeedSequence(seed).generate_state(math.ceil(count / batch))
    noises = [_noise((batch, *shape), int(own)) for own in seeds]
    if not any(map(_keeps_statistics, graph.graph.nodes)):
        return torch.cat(noises)[:count]
    matching = _Matching(graph, device)
    scale = _best_scale(noises[0].to(device), matching)
    done = itertools.count(1)

    def report() -> None:
        if on_progress is not None:
            on_progress(next(done), len(noises) * _STEPS)

    made = [_matched(noise.to(device), scale, matching, report) for noise in noises]
    return torch.cat(made)[:count]


def synthetic_data(
    graph: fx.GraphModule, shape: tuple[int, ...], *, count: int, seed: int, device: torch.device
) -> Data:
    """A data set of inputs made from a network: without labels, a tenth held out twice.

    Args:
        graph: A traced graph in evaluation mode, which is left as it is.
        shape: That of one example.
        count: How many examples.
        seed: Fixes them, and the order they come in.
        device: Where to compute them.
    """
    x = synthesize(graph, shape, count=count, seed=seed, device=device)
    tenth = max(1, count // 10)
    loader = partial(TensorLoader, batch_size=min(_LARGEST_BATCH, count))
    return Data(
        name=f"{count:,} inputs made from the model",
        train=loader(
            x[2 * tenth :], augment=len(shape) == 3 and shape[0] == 3, shuffle=True, seed=seed
        ),
        validation=loader(x[tenth : 2 * tenth]),
        test=loader(x[:tenth]),
        classes=(),
        preprocessing=None,
        labels="none",
        caution=_MADE if any(map(_keeps_statistics, graph.graph.nodes)) else _NOISE,
    )


def _input_of(graph: fx.GraphModule) -> Tensor:
    """What the graph knows of its input: type, and whether the batch is fixed."""
    values = [node.meta.get("val") for node in graph.graph.find_nodes(op="placeholder")]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) != 1 or not tensors[0].is_floating_point():
        kinds = ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)
        raise InputError(
            f"inputs can be made for one tensor of floating-point numbers, not for: {kinds}",
            hint="Pass data to train on (--data).",
        )
    return tensors[0]


def _batch_size(value: Tensor, shape: tuple[int, ...], count: int) -> int:
    if isinstance(value.shape[0], int):  # the model's code asks for that size
        return value.shape[0]
    fitting = _NUMBERS_IN_A_BATCH // math.prod(shape)
    return min(count, _LARGEST_BATCH, max(fitting, _SMALLEST_BATCH))


def _noise(size: tuple[int, ...], seed: int) -> Tensor:
    """Normal numbers; those of images ``(N, C, H, W)`` with amplitudes of one over frequency."""
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    if len(size) != 4:
        return noise
    height, width = size[2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    # The mean has no frequency; it gets the amplitude of the longest wave.
    frequency[0, 0] = 1 / max(height, width)
    colored: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    return colored / colored.std()


def _keeps_statistics(node: fx.Node) -> bool:
    return node.target is aten.batch_norm.default and node.args[_MEAN] is not None


def _best_scale(noise: Tensor, matching: "_Matching") -> float:
    """What to multiply noise with so that it is closest to what the batch norms remember.

    The divergence is the other way round than in matching: it charges more for too little variance
    than for too much. Noise has less than images of its scale have, where filters look, and what
    starts too small stays so.
    """

    def divergence(scale: float) -> float:
        pairs = matching.moments(scale * noise)
        return float(torch.stack([_divergence(known, met) for met, known in pairs]).mean())

    with torch.no_grad():
        return min(_SCALES, key=divergence)


def _matched(
    noise: Tensor, scale: float, matching: "_Matching", report: Callable[[], None]
) -> Tensor:
    """One batch, moved from noise to where the statistics are the running ones."""
    x = (scale * noise).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=_RATE * scale)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        pairs = matching.moments(x)
        distance = torch.stack([_divergence(met, known) for met, known in pairs]).mean()
        (x.grad,) = torch.autograd.grad(distance, x)
        optimizer.step()
        schedule.step()
        report()
    return x.detach().cpu()


class _Matching(fx.Interpreter):
    """Runs a graph, and notes what its batch norms meet beside what they remember.

    Args:
        graph: The graph. What runs is its tensors on ``device``, without their gradients.
        device: Where to run.
    """

    def __init__(self, graph: fx.GraphModule, device: torch.device) -> None:
        super().__init__(graph)
        self._pairs: list[tuple[_Moments, _Moments]] = []
        self._tensors = {
            node.target: self.fetch_attr(str(node.target)).detach().to(device)
            for node in graph.graph.find_nodes(op="get_attr")
        }

    def moments(self, x: Tensor) -> list[tuple[_Moments, _Moments]]:
        """For each batch norm the moments of a batch ``(N, ...)``, and the running ones."""
        self._pairs.clear()
        self.run(x)
        return list(self._pairs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG002
        """The tensor on the device."""
        return self._tensors[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The op's result; what a batch norm meets is noted on the way."""
        if target is aten.batch_norm.default and args[_MEAN] is not None:
            epsilon = args[_EPSILON]
            variance, mean = torch.var_mean(args[0], _all_but_channels(args[0]), correction=0)
            known = args[_MEAN], args[_VARIANCE] + epsilon
            self._pairs.append(((mean, variance + epsilon), known))
        return super().call_function(target, args, kwargs)


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def _divergence(one: _Moments, other: _Moments) -> Tensor:
    """The Kullback-Leibler divergence of Gaussians from others, averaged over the channels."""
    (mean, variance), (other_mean, other_variance) = one, other
    ratio = variance / other_variance
    return 0.5 * (ratio + (mean - other_mean) ** 2 / other_variance - 1 - ratio.log()).mean()
