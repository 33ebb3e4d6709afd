"""Let features of the model's inputs go as channels do: gather them where weights read them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from vibfx.components import Components, find_components
from vibfx.copying import share_graph_module
from vibfx.coupling import analyze
from vibfx.errors import GraphError, NothingRemovableError
from vibfx.gates import gates_of
from vibfx.graph import is_tensor, shape_of, symbolic_dims
from vibfx.labels import core
from vibfx.passes.base import Pass
from vibfx.propagation import SELECTIONS
from vibfx.rules import rule_for
from vibfx.rules.slicing import CONCATENATIONS

aten = torch.ops.aten

# A tensor by the name of its node, and the dimension of it along which features lie.
Place = tuple[str, int]


@dataclass(frozen=True)
class SelectInputs(Pass):
    """Insert an ``index_select`` of all features where an input is read by weights.

    An input keeps its shape. What loses entries is the table of positions, a buffer that is named
    after the input (``inputs.x``): a plan lists which of its indices stay, and the graph that is
    left gathers those. A table is not trained, and counts neither as parameters nor as FLOPs.

    A floating-point input is followed through all that works on it alone (moves, an activation, a
    norm) to each layer that reads it, and to each concatenation with what is no input. What reads
    one tensor along one dimension shares a table. Nothing is inserted where no feature could go,
    as in front of an op that joins the input to an output.

    Run it before ``vibfx.analyze``; a plan of a graph with tables is applied to such a graph.
    """

    name: ClassVar[str] = "select-inputs"

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Insert one selection for each place that weights read."""
        if gates_of(module):
            raise GraphError("the graph has gates already", hint="Select inputs before gating.")
        readers: dict[Place, list[str]] = {}
        for place, reader in _worthwhile(module):
            readers.setdefault(place, []).append(reader)
        for place, names in readers.items():
            _select(module, place, names)
        return bool(readers)


def with_selected_inputs(graph: fx.GraphModule) -> fx.GraphModule:
    """A traced graph with its inputs selected.

    Raises:
        NothingRemovableError: No feature of an input could be removed.
    """
    result = SelectInputs()(graph)
    if not result.modified:
        raise NothingRemovableError(
            "no feature of the model's input can be removed: no layer whose weights could shrink "
            "reads several features of a floating-point input",
            hint="Compress the network without --gate-inputs.",
        )
    selected: fx.GraphModule = result.graph_module
    return selected


def _worthwhile(module: fx.GraphModule) -> list[tuple[Place, str]]:
    """The reads of which some feature can go, and with it a part of some parameter."""
    reads = list(_reads(module))
    if not reads:
        return []
    trial = share_graph_module(module)
    tables = [_select(trial, place, [reader]) for place, reader in reads]
    touched = [{slot.parameter for slot in group.slots} for group in analyze(trial).groups]
    free = set().union(*(names for names in touched if not names.issubset(tables)))
    return [read for read, table in zip(reads, tables, strict=True) if table in free]


def _reads(module: fx.GraphModule) -> Iterator[tuple[Place, str]]:
    """Where features of inputs are read, each with its reader, in the order of the graph."""
    made = _made_of_inputs(module)
    for node in module.graph.nodes:
        if node in made:
            continue
        for x, channels in _read_by(module, node):
            if x not in made:
                continue
            dim = channels % len(shape_of(x))
            if shape_of(x)[dim] > 1 and dim not in symbolic_dims(x):
                yield (x.name, dim), node.name


def _read_by(module: fx.GraphModule, node: fx.Node) -> list[tuple[fx.Node, int]]:
    """What a layer or a concatenation reads, and along which dimension."""
    args: tuple[Any, ...] = node.args
    if node.target in CONCATENATIONS:
        named: dict[str, Any] = dict(node.kwargs)
        dim = args[1] if len(args) > 1 else named.get("dim", 0)
        return [(part, dim) for part in dict.fromkeys(args[0])]
    if not _is_layer(module, node):
        return []
    at: Any = rule_for(module, node).weight_at  # type: ignore[union-attr]
    return [(args[at.x], at.channels)]


def _is_layer(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node sums over the channels of what it reads, by weights that are stored."""
    found = rule_for(module, node)
    if found is None or found.weight_at is None:
        return False
    weights: Any = node.args[found.weight_at.weight]
    first = weights[0] if isinstance(weights, (list, tuple)) else weights  # a recurrent layer's
    return first.op == "get_attr" and len(shape_of(first)) > 1


def _made_of_inputs(module: fx.GraphModule) -> set[fx.Node]:
    """Floating-point inputs, and what is made of them alone and cannot lose channels."""
    found = find_components(module)
    made: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if is_tensor(node) and node.meta["val"].is_floating_point():
                made.add(node)
        elif _is_made_of(node, made) and _is_whole(node, found) and not _is_layer(module, node):
            made.add(node)
    return made


def _is_made_of(node: fx.Node, made: set[fx.Node]) -> bool:
    """Whether an op reads these nodes and otherwise what is stored, or sizes."""
    sources = [
        source
        for source in node.all_input_nodes
        if source.op != "get_attr" and isinstance(source.meta["val"], (Tensor, list, tuple))
    ]
    return node.op == "call_function" and bool(sources) and made.issuperset(sources)


def _is_whole(node: fx.Node, found: Components) -> bool:
    """Whether nothing can go from a node, which a table behind it would have to freeze."""
    factors = [factor for tagged in found.propagation.tagged(node) for factor in tagged.factors]
    return all(bool(found.stays[core(factor)[0].numpy()].all()) for factor in factors)


def _select(module: fx.GraphModule, place: Place, readers: list[str]) -> str:
    """Let readers read a selection, at first of all features; returns the name of its table."""
    nodes = {node.name: node for node in module.graph.nodes}
    x, dim = nodes[place[0]], place[1]
    value = x.meta["val"]
    positions = torch.arange(shape_of(x)[dim], device=value.device)
    name = _store(module, x, positions)
    with module.graph.inserting_before(nodes[readers[0]]):
        table = module.graph.get_attr(name)
        selected = module.graph.call_function(aten.index_select.default, (x, dim, table))
    table.meta = {"val": value.new_empty(positions.shape, dtype=positions.dtype)}
    selected.meta = dict(x.meta)
    for reader in readers:
        nodes[reader].replace_input_with(x, selected)
    return name


def _store(module: fx.GraphModule, x: fx.Node, positions: Tensor) -> str:
    """Register a table, named after the input that is selected from."""
    while x.op != "placeholder":
        x = next(source for source in x.all_input_nodes if source.op != "get_attr")
    known = module.meta.get(SELECTIONS, ())
    own = {name.partition(".")[0] for name in known}
    holder = next(n for n in ("inputs", "vib_inputs") if n in own or not hasattr(module, n))
    if holder not in own:
        module.add_submodule(holder, nn.Module())
    tables = module.get_submodule(holder)
    name, number = x.name, 1
    while hasattr(tables, name):
        number += 1
        name = f"{x.name}_{number}"
    tables.register_buffer(name, positions)
    module.meta[SELECTIONS] = (*known, f"{holder}.{name}")
    return f"{holder}.{name}"
