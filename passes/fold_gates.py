"""Multiply what is left of the gates into neighbouring weights, so that no gate remains."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from vibfx.coupling import Coupling, analyze
from vibfx.gates import apply_gates, gates_of
from vibfx.graph import add_buffer, set_tensor, shape_of, tensor_at, where
from vibfx.labels import core, varying
from vibfx.passes.base import Pass
from vibfx.rules import Scale, rule_for
from vibfx.rules.convolution import CONVOLUTIONS, groups_of
from vibfx.scaling import absorbers

aten = torch.ops.aten

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldGates(Pass):
    """Replace every gate by its value in evaluation mode, folded into weights.

    Backward where it can: through a ReLU into the batch norm, convolution or linear that makes the
    channel. Else forward into the layers that read it. Where neither is exact (a negative mean in
    front of a max pool), a multiplication by a constant stays and a warning says so.
    """

    name: ClassVar[str] = "fold-gates"

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Fold site by site, then drop the gates."""
        if not gates_of(module):
            return False
        coupling = analyze(module)
        for node in module.graph.find_nodes(op="call_function", target=apply_gates):
            _fold(module, node, coupling)
        return True


def _fold(module: fx.GraphModule, node: fx.Node, coupling: Coupling) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    values = _values(module, node)
    positive = bool((values >= 0).all())
    line = values.flatten()
    if _fold_backward(module, x, values, positive) or _fold_forward(
        module, node, line, coupling, positive
    ):
        node.replace_all_uses_with(x)
    else:
        _log.warning("the gate at %s stays as a multiplication by a constant", where(node))
        _multiply(module, node, values, coupling)
    module.graph.erase_node(node)


def _values(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """What a site multiplies by in evaluation mode, broadcastable to one example."""
    gates = gates_of(module)
    args: tuple[Any, ...] = node.args
    row = torch.cat([gates[v.target].mu * gates[v.target].open() for v in args[1]]).detach()
    if len(args) > 2:
        index = tensor_at(module, args[2].target)
        return torch.cat([row, row.new_ones(1)])[index]
    return row.reshape(-1, *[1] * (len(shape_of(node)) - 2))


def _fold_backward(module: fx.GraphModule, x: fx.Node, values: Tensor, positive: bool) -> bool:
    """Scale the rows of the layer that makes the channels, if ``x`` is all that is made of them."""
    while _has_one_reader(x):
        found = rule_for(module, x)
        if found and found.activation and found.scale is Scale.POSITIVE and positive:
            x = x.args[0]  # type: ignore[assignment]
            continue
        makers, channel = _row_parameters(x)
        if not makers or values.numel() != values.size(channel):
            return False
        for maker in makers:
            _scale(module, maker, values.flatten())
        return True
    return False


def _has_one_reader(node: fx.Node) -> bool:
    """Gates read a tensor only for its batch size."""
    return sum(user.op != "call_module" for user in node.users) == 1


def _row_parameters(layer: fx.Node) -> tuple[list[fx.Node], int]:
    """Parameters whose rows make a layer's channels, and the channel dimension of one example."""
    if layer.target is aten.batch_norm.default:
        weight, bias = layer.args[1:3]
        makers, channel = ([weight, bias] if weight is not None else []), 0
    elif layer.target in CONVOLUTIONS or layer.target is aten.linear.default:
        makers = [a for a in layer.args[1:3] if a is not None]
        channel = -1 if layer.target is aten.linear.default else 0
    else:
        return [], 0
    own = all(isinstance(m, fx.Node) and m.op == "get_attr" and len(m.users) == 1 for m in makers)
    return (makers if own else []), channel  # type: ignore[return-value]


def _fold_forward(
    module: fx.GraphModule, node: fx.Node, line: Tensor, coupling: Coupling, positive: bool
) -> bool:
    """Scale the columns of the layers that read the channels, if all paths end in such layers."""
    found = absorbers(module, node, coupling.propagation, coupling.unit_of, positive=positive)
    (x,) = coupling.propagation.tagged(node)
    if not found or not found.layers or len(x.factors) != 1:
        return False
    labels = core(x.factors[0])[0].flatten()
    if labels.numel() != line.numel():
        return False
    by_label, own = _by_label(coupling, labels, line.cpu())
    columns = []
    for layer in found.layers:
        (source,) = coupling.propagation.tagged(layer.args[0])  # type: ignore[arg-type]
        channel = len(source.shape) - 1 if layer.target is aten.linear.default else 1
        along = [f for f in source.factors if varying(f) == (channel,)]
        if len(along) != 1:
            return False
        read = core(along[0])[0].flatten()
        scale = by_label[read]
        if bool((own[read] & scale.isnan()).any()):
            return False
        # What belongs to other gates is theirs to scale.
        columns.append(scale.nan_to_num(1.0))
    for layer, scale in zip(found.layers, columns, strict=True):
        _scale(module, layer.args[1], _spread(layer, scale))  # type: ignore[arg-type]
    for passed in (node.args[0], *found.path):
        passed.meta["unscaled"] = True  # type: ignore[union-attr]
    return True


def _by_label(coupling: Coupling, labels: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    """A factor for every label that a site scales, nan where unknown, and which those labels are.

    A factor holds for the whole unit, since a product may carry its other operand's labels, unless
    the unit has several factors: then for the site's own labels alone.
    """
    unit_of = torch.from_numpy(coupling.unit_of)
    units = unit_of[labels]
    low = torch.full((coupling.units + 1,), float("inf"), dtype=line.dtype)
    high = -low
    low.scatter_reduce_(0, units % low.numel(), line, "amin")
    high.scatter_reduce_(0, units % low.numel(), line, "amax")
    of_unit = torch.where(low == high, low, float("nan"))
    of_unit[-1] = float("nan")  # what stays is no unit
    by_label = of_unit[unit_of]
    by_label[labels] = line
    own = torch.zeros_like(low, dtype=torch.bool)
    own[units] = True
    own[-1] = False
    return by_label, own[unit_of]


def _spread(layer: fx.Node, scale: Tensor) -> Tensor:
    """A factor for each input channel as one for each (row, column) of the layer's weight."""
    groups = groups_of(layer)
    rows = shape_of(layer)[-1 if layer.target is aten.linear.default else 1]
    return scale.reshape(groups, -1).repeat_interleave(rows // groups, dim=0)


def _scale(module: fx.GraphModule, parameter: fx.Node, scale: Tensor) -> None:
    old = tensor_at(module, str(parameter.target)).detach()
    spread = scale.reshape(*scale.shape, *[1] * (old.dim() - scale.dim()))
    set_tensor(module, str(parameter.target), old * spread.to(old))


def _multiply(module: fx.GraphModule, node: fx.Node, values: Tensor, coupling: Coupling) -> None:
    name = add_buffer(module, "gate_constant", values)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
        constant.meta = {"val": node.meta["val"].new_empty(values.shape)}
        product = module.graph.call_function(aten.mul.Tensor, (node.args[0], constant))
    product.meta = dict(node.meta)
    # So that the gates still to come know whose channels these are.
    coupling.propagation.values[product] = coupling.propagation.values[node]
    node.replace_all_uses_with(product)
