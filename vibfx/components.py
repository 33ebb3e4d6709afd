"""What lives and dies together: the connected components of all labels, with shapes kept boxes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from vibfx.labels import ALWAYS_KEPT, LabelSpace, core, varying
from vibfx.propagation import Propagation, propagate

Units = npt.NDArray[np.int64]
Norms = Literal["exact", "freeze"]

# Where a gated graph notes what it was analysed with.
NORMS = "vibfx_norms"


@dataclass(frozen=True)
class Components:
    """The labels of a graph, and which of them live and die together.

    Attributes:
        propagation: The labels of every node.
        component: For every label the number of its component.
    """

    propagation: Propagation
    component: Units

    @property
    def space(self) -> LabelSpace:
        """All labels that parameters have."""
        return self.propagation.space

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """For every label whether it can never go."""
        return staying(self.propagation, self.component)


def find_components(module: fx.GraphModule, *, norms: Norms | None = None) -> Components:
    """Label a graph and find out what lives and dies together.

    Args:
        module: A traced graph, gated or not.
        norms: Whether channels may go from under a norm or a mean that runs across them; by
            default as it was when the graph was gated, else ``"exact"``.
    """
    norms = norms or module.meta.get(NORMS, "exact")
    propagation = propagate(module, exact_norms=norms == "exact")
    return Components(propagation, solve(propagation))


def solve(propagation: Propagation) -> Units:
    """Connected components of the labels, with shapes kept boxes.

    What a removal takes from a factor that varies along several dimensions must be whole slices
    along one of them. Where a component breaks that, all dimensions but one are coupled, and the
    components found again.
    """
    boxes = _boxes(propagation)
    while True:
        component = _components(propagation.facts.labels, propagation.facts.ties)
        if not boxes:
            return component
        stays = staying(propagation, component)
        gone_with = np.where(stays, component[ALWAYS_KEPT], component)  # what stays is all alike
        broken = [box for box in boxes if not _is_box(gone_with[box.numpy()])]
        if not broken:
            return component
        for box in broken:
            free = max(varying(box), key=lambda dim: _units_along(box, dim, component, stays))
            for dim in varying(box):
                if dim != free:
                    propagation.facts.couple(box, dim)


def _boxes(propagation: Propagation) -> list[Tensor]:
    """The factors that vary along several dimensions, each once."""
    found: dict[tuple[Any, ...], Tensor] = {}
    for node in propagation.values:
        for tagged in propagation.tagged(node):
            for factor in tagged.factors:
                if len(varying(factor)) > 1:
                    (box,) = core(factor)
                    found.setdefault((box.shape, box.numpy().tobytes()), box)
    return list(found.values())


def _units_along(box: Tensor, dim: int, component: Units, stays: npt.NDArray[np.bool_]) -> int:
    """How many removable units are left if all slices across one dimension become units."""
    lines = box.movedim(dim, 0).flatten(1).numpy()
    numbers, slices = component[lines], np.arange(lines.shape[0])[:, None]
    _, flat = np.unique(numbers, return_inverse=True)
    flat = flat.reshape(lines.shape) + lines.shape[0]
    size = int(flat.max()) + 1
    rows = np.broadcast_to(slices, lines.shape).ravel()
    edges = coo_array((np.ones(rows.size), (rows, flat.ravel())), shape=(size, size))
    count, joined = connected_components(edges, directed=False)
    return int(count) - len(set(joined[flat[stays[lines]]]))


def _components(size: int, ties: list[tuple[Tensor, Tensor]]) -> Units:
    rows = torch.cat([a for a, _ in ties]) if ties else torch.zeros(0, dtype=torch.int64)
    columns = torch.cat([b for _, b in ties]) if ties else rows
    edges = coo_array((np.ones(rows.numel()), (rows.numpy(), columns.numpy())), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return np.asarray(component, dtype=np.int64)


def _is_box(component: Units) -> bool:
    """Whether the components vary along one dimension at most."""
    for axis in range(component.ndim):
        line = component[
            tuple(slice(None) if d == axis else slice(0, 1) for d in range(component.ndim))
        ]
        if np.array_equal(np.broadcast_to(line, component.shape), component):
            return True
    return False


def staying(propagation: Propagation, component: Units) -> npt.NDArray[np.bool_]:
    """For every label whether it can never go."""
    frozen = np.zeros(component.max() + 1, dtype=bool)
    frozen[component[ALWAYS_KEPT]] = True
    for freeze in propagation.facts.freezes:
        frozen[component[freeze.labels.numpy()]] = True
    return frozen[component]
