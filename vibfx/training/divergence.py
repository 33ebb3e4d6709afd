"""Where a network breaks when its training diverges."""

import torch
from torch import Tensor, fx

from vibfx.errors import DivergenceError
from vibfx.graph import where
from vibfx.training.meter import Diverged


def divergence(module: fx.GraphModule, x: Tensor | None, found: Diverged) -> DivergenceError:
    """The error to raise, with the place where the graph computes what is no number.

    Args:
        module: The graph as it is now.
        x: The input of the step; None where it is not known.
        found: Which step, and its loss.
    """
    place = first_broken(module, x) if x is not None else None
    return DivergenceError(
        f"training diverged: the loss is {found.loss:g} at step {found.step}",
        where=place,
        hint="Lower --lr, or --gamma where it is given, and look at the data for values that are "
        "no numbers.",
    )


def first_broken(module: fx.GraphModule, x: Tensor) -> str | None:
    """The first parameter or node whose value is no number, in words; None where there is none."""
    if _is_broken(x):
        return "the model's input"

    class Watch(fx.Interpreter):
        broken: fx.Node | None = None

        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if self.broken is None and _is_broken(value):
                self.broken = n
            return value

    watch = Watch(module)
    with torch.no_grad():
        watch.run(x)
    if watch.broken is None:
        return None
    is_parameter = watch.broken.op == "get_attr"
    return str(watch.broken.target) if is_parameter else where(watch.broken)


def _is_broken(value: object) -> bool:
    return (
        isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())
    )
