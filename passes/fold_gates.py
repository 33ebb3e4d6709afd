"""Multiply what is left of the gates into neighbouring weights, so that no gate remains."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from vibfx.components import Components, find_components
from vibfx.gates import apply_gates, gates_of
from vibfx.graph import add_buffer, set_tensor, shape_of, tensor_at, where
from vibfx.labels import ALWAYS_KEPT, Tagged, core, varying
from vibfx.passes.base import Pass
from vibfx.rules import WeightAt, rule_for
from vibfx.rules.convolution import groups_of
from vibfx.scaling import absorbers, has_one_reader, makers

aten = torch.ops.aten

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldGates(Pass):
    """Replace every gate by its value in evaluation mode, folded into weights.

    Backward where it can: through a ReLU, through sums and moves, into the norms, layers and bare
    parameters that make the channel. Else forward into the layers that read it. Where neither is
    exact (a negative mean in front of a max pool), a multiplication by a constant stays and a
    warning says so.
    """

    name: ClassVar[str] = "fold-gates"

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Fold site by site, then drop the gates."""
        if not gates_of(module):
            return False
        found = find_components(module)
        for node in module.graph.find_nodes(op="call_function", target=apply_gates):
            _fold(module, node, found)
        return True


def _fold(module: fx.GraphModule, node: fx.Node, found: Components) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    values = _values(module, node)
    positive = bool((values >= 0).all())
    factors = _Factors.of(node, values, found)
    if x.op == "get_attr" and has_one_reader(x):
        old = tensor_at(module, str(x.target)).detach()
        set_tensor(module, str(x.target), old * values.to(old))
        folded = True
    elif values.numel() == 1:
        folded = _fold_number(module, x, values, positive) or _read_number(module, node, values)
    else:
        folded = factors is not None and (
            _fold_backward(module, x, factors, found, positive)
            or _fold_forward(module, node, factors, found, positive)
        )
    if folded:
        node.replace_all_uses_with(x)
    else:
        _log.warning("the gate at %s stays as a multiplication by a constant", where(node))
        _multiply(module, node, values, found)
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


@dataclass(frozen=True)
class _Factors:
    """What a site multiplies every label by; nan where that is not known.

    Attributes:
        of_unit: For every label what its whole unit is multiplied by, if that is one number.
        by_label: The same, and for the site's own labels their own number.
        own: Which labels belong to the site's units.
    """

    of_unit: Tensor
    by_label: Tensor
    own: Tensor

    @classmethod
    def of(cls, node: fx.Node, values: Tensor, found: Components) -> "_Factors | None":
        """The factors of a site whose values follow one of its label factors."""
        (x,) = found.propagation.tagged(node)
        line = values.cpu().flatten()
        for factor in x.factors:
            labels = _like(core(factor)[0], values)
            if labels is not None:
                made = _by_label(found, labels.flatten(), line)
                if made.gives(labels.flatten(), line) and not made.crosses(x):
                    return made
        return None

    def gives(self, labels: Tensor, line: Tensor) -> bool:
        """Whether labels say all: not of the only channel of a layer, say, which has none."""
        said = torch.where(self.own[labels], self.by_label[labels], 1.0)
        return torch.equal(said, line)

    def crosses(self, x: Tagged) -> bool:
        """Whether the units lie along two dimensions (a product of a tensor with itself).

        What reads the one would then be taken for what reads the other.
        """
        along = [set(varying(f)) for f in x.factors if bool(self.own[core(f)[0]].any())]
        return any(a.isdisjoint(b) for a in along for b in along)

    def along(self, lines: list[Tensor]) -> Tensor | None:
        """The factors of a line of elements, 1 for what is not the site's; None if unknown.

        Where several labels stand on one element (a head's, and a channel's in it), what is known
        of whole units decides, and all have to agree.
        """
        known = self.by_label if len(lines) == 1 else self.of_unit
        scales = [known[labels] for labels in lines]
        owns = [self.own[labels] for labels in lines]
        if any(bool((own & s.isnan()).any()) for own, s in zip(owns, scales, strict=True)):
            return None
        alike = all(torch.equal(s.nan_to_num(1.0), scales[0].nan_to_num(1.0)) for s in scales[1:])
        return scales[0].nan_to_num(1.0) if alike else None


def _like(labels: Tensor, values: Tensor) -> Tensor | None:
    """Labels in the shape of the values, if they vary along the same dimensions."""
    lead = labels.dim() - values.dim()
    alike = lead >= 0 and labels.shape[lead:] == values.shape and labels.numel() == values.numel()
    return labels if alike else None


def _by_label(found: Components, labels: Tensor, line: Tensor) -> _Factors:
    component = torch.from_numpy(found.component)
    numbers = component[labels]
    low = torch.full((int(component.max()) + 1,), float("inf"), dtype=line.dtype)
    high = -low
    low.scatter_reduce_(0, numbers, line, "amin")
    high.scatter_reduce_(0, numbers, line, "amax")
    own = torch.zeros_like(low, dtype=torch.bool)
    own[numbers] = True
    own[component[ALWAYS_KEPT]] = False
    of_unit = torch.where(low == high, low, float("nan"))[component]
    by_label = of_unit.clone()
    by_label[labels] = line
    return _Factors(of_unit, by_label, own[component])


def _fold_number(module: fx.GraphModule, x: fx.Node, value: Tensor, positive: bool) -> bool:
    """Scale all that makes the one channel that is left."""
    parameters = makers(module, x, positive=positive)
    for parameter in parameters or []:
        _scale(module, parameter, value.reshape(()))
    return bool(parameters)


def _read_number(module: fx.GraphModule, node: fx.Node, value: Tensor) -> bool:
    """Scale the weights of the layers that read the one channel that is left, if all are such."""
    weights = []
    for reader in node.users:
        found = rule_for(module, reader)
        weight = found.weight_of(reader) if found else None
        if found is None or weight is None or not has_one_reader(weight):
            return False
        if [at for at, given in enumerate(reader.args) if given is node] != [found.weight_at.x]:  # type: ignore[union-attr]
            return False  # it is a bias as well
        weights.append(weight)
    for weight in weights:
        _scale(module, weight, value.reshape(()))
    return bool(weights)


def _fold_backward(
    module: fx.GraphModule, x: fx.Node, factors: _Factors, found: Components, positive: bool
) -> bool:
    """Scale the parameters that make the channels, if ``x`` is all that is made of them."""
    parameters = makers(module, x, positive=positive)
    if not parameters:
        return False
    scales = [_maker_scale(module, p, factors, found) for p in parameters]
    if any(scale is None for scale in scales):
        return False
    for parameter, scale in zip(parameters, scales, strict=True):
        _scale(module, parameter, scale)  # type: ignore[arg-type]
    return True


def _maker_scale(
    module: fx.GraphModule, parameter: fx.Node, factors: _Factors, found: Components
) -> Tensor | None:
    """What to multiply a parameter by, along the one dimension that makes the site's channels."""
    shape = tuple(tensor_at(module, str(parameter.target)).shape)
    writes = None
    for slot in found.space.of_parameter(str(parameter.target)):
        labels = torch.arange(slot.start, slot.start + slot.size)
        if slot.dim == _read_dim(module, parameter) or not bool(factors.own[labels].any()):
            continue
        if writes is not None:
            return None
        scale = factors.along([labels])
        if scale is None:
            return None
        writes = scale.reshape([-1 if d == slot.dim else 1 for d in range(len(shape))])
    return writes


def _read_dim(module: fx.GraphModule, parameter: fx.Node) -> int | None:
    """The dimension of a weight that reads the input of its layer."""
    for user in parameter.users:
        own = rule_for(module, user)
        if own and own.weight_at and own.weight_of(user) is parameter:
            return own.weight_at.reads
    return None


def _fold_forward(
    module: fx.GraphModule, node: fx.Node, factors: _Factors, found: Components, positive: bool
) -> bool:
    """Scale the columns of the layers that read the channels, if all paths end in such layers."""
    taken = absorbers(module, node, found.propagation, found.component, positive=positive)
    if not taken or not taken.layers:
        return False
    columns = []
    for layer in taken.layers:
        at: Any = rule_for(module, layer).weight_at  # type: ignore[union-attr]
        scale = _read_scale(layer, at, factors, found)
        if scale is None:
            return False
        columns.append((layer.args[at.weight], scale))
    for weight, scale in columns:
        _scale(module, weight, scale)
    for passed in (node.args[0], *taken.path):
        passed.meta["unscaled"] = True  # type: ignore[union-attr]
    return True


def _read_scale(
    layer: fx.Node, at: WeightAt, factors: _Factors, found: Components
) -> Tensor | None:
    """A factor for each input channel, shaped to multiply the layer's weight."""
    (source,) = found.propagation.tagged(layer.args[at.x])  # type: ignore[arg-type]
    channel = at.channels % len(source.shape)
    along = source.along(channel)
    own = [f for f in source.factors if bool(factors.own[core(f)[0]].any())]
    # All that the site scales has to stand along the channels: elsewhere a weight does not see it.
    if not own or any(varying(f) != (channel,) for f in along + own):
        return None
    scale = factors.along([core(f)[0].flatten() for f in along])
    if scale is None:
        return None
    if at.reads == 0:
        return scale.reshape(-1, 1)
    groups = groups_of(layer)
    rows = shape_of(layer.args[at.weight])[0]  # type: ignore[arg-type]
    return scale.reshape(groups, -1).repeat_interleave(rows // groups, dim=0)


def _scale(module: fx.GraphModule, parameter: fx.Node, scale: Tensor) -> None:
    old = tensor_at(module, str(parameter.target)).detach()
    spread = scale.reshape(*scale.shape, *[1] * (old.dim() - scale.dim()))
    set_tensor(module, str(parameter.target), old * spread.to(old))


def _multiply(module: fx.GraphModule, node: fx.Node, values: Tensor, found: Components) -> None:
    name = add_buffer(module, "gate_constant", values)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
        constant.meta = {"val": node.meta["val"].new_empty(values.shape)}
        product = module.graph.call_function(aten.mul.Tensor, (node.args[0], constant))
    product.meta = dict(node.meta)
    # So that the gates still to come know whose channels these are.
    found.propagation.values[product] = found.propagation.values[node]
    node.replace_all_uses_with(product)
