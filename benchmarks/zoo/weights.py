"""Weights with which a comparison can fail: nothing zero, nothing that cancels, no dead signal.

Fresh networks are full of zeros: biases, the last norm of a block, layer scale at 1e-6,
whole heads. Units behind them would not matter, and any comparison would pass.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from vibfx.gates import gates_of
from vibfx.graph import tensor_at

aten = torch.ops.aten

SHIFT = 0.3
# A weight smaller than this share of what keeps the signal's size is drawn anew.
SMALLEST_GAIN = 0.5
# By what the weights of batch norms are multiplied to calm a network down.
CALM = 0.25
BatchNorm = nn.modules.batchnorm._BatchNorm


def randomize(parameters: Iterable[tuple[str, Tensor]], seed: int = 0) -> None:
    """Shift what is a vector, draw anew what is zero or nearly so; in place.

    Args:
        parameters: Names and values; only values of floating point are touched.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in parameters:
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if is_vector(parameter):
                parameter.add_(SHIFT * noise)
            elif gain(parameter) < SMALLEST_GAIN:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


def is_vector(parameter: Tensor) -> bool:
    """Whether it varies along one dimension at most: a bias, a scale, a token."""
    return sum(size > 1 for size in parameter.shape) <= 1


def gain(parameter: Tensor) -> float:
    """About by what a layer with this weight multiplies the size of its input."""
    if parameter.shape[0] == 1:  # nothing sums over it: a table of positions
        return float(parameter.detach().std()) / SHIFT
    return float(parameter.detach().std()) * float(parameter[0].numel()) ** 0.5


def prepare_graph(module: fx.GraphModule, run: Callable[[], object], seed: int = 0) -> None:
    """Randomise a gated graph and fit its running statistics to the graph as it is, masks included.

    Args:
        module: The graph, gates shut as they will stay.
        run: Runs it on some inputs.
        seed: Of the noise.
    """
    gates = tuple(f"{name}." for name in gates_of(module))
    own = [(n, p) for n, p in module.named_parameters() if not n.startswith(gates or ("\0",))]
    randomize(own, seed)
    fit_statistics(module, run)


def calm(module: fx.GraphModule, run: Callable[[], object]) -> None:
    """Make residual branches small beside the paths around them, as they are in a trained network.

    A hundred random branches as large as what they are added to amplify rounding without bound.
    """
    for norm in module.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        if norm.args[1] is not None:
            with torch.no_grad():
                tensor_at(module, norm.args[1].target).mul_(CALM)
    fit_statistics(module, run)


def fit_statistics(module: fx.GraphModule, run: Callable[[], object]) -> None:
    """Batch norms take those of one run."""
    norms = module.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    norms = [norm for norm in norms if norm.args[3] is not None]
    if not norms:
        return
    before = [tuple(norm.args[5:7]) for norm in norms]
    for norm in norms:
        set_mode(norm, training=True, momentum=1.0)
    module.recompile()
    with torch.no_grad():
        run()
    for norm, (training, momentum) in zip(norms, before, strict=True):
        set_mode(norm, training=bool(training), momentum=float(momentum))  # type: ignore[arg-type]
    module.recompile()


def set_mode(norm: fx.Node, *, training: bool, momentum: float) -> None:
    """Set a batch norm's two arguments."""
    norm.update_arg(5, training)
    norm.update_arg(6, momentum)


def prepare_model(model: nn.Module, run: Callable[[], object], seed: int = 0) -> None:
    """The same for a module that has not been traced."""
    randomize(model.named_parameters(), seed)
    with calibrating(model), torch.no_grad():
        run()


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Batch norms take the next batch's statistics for their running ones."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
