"""What a layer says of its own sizes: one layer class, one small function.

Every function is given a layer that has its new parameters already, and the nodes of the cut graph
that the layer computes. It returns the attributes that agree with both.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from vibfx.graph import shape_of
from vibfx.rules.convolution import CONVOLUTIONS, groups_of

aten = torch.ops.aten

Attributes = dict[str, Any]
Rule = Callable[[Any, Sequence[fx.Node]], Attributes]

_GROUPS = 1  # where ``num_groups`` stands among the arguments of a group norm


def attributes(layer: nn.Module, nodes: Sequence[fx.Node]) -> Attributes:
    """The attributes of a layer that have to change, with their new values.

    Args:
        layer: A layer whose parameters are cut; not changed.
        nodes: The nodes of the cut graph that its ``forward`` makes, those of every call.
    """
    rule = next((rule for kind, rule in _RULES.items() if isinstance(layer, kind)), None)
    found = rule(layer, nodes) if rule else {}
    return {name: value for name, value in found.items() if getattr(layer, name, None) != value}


def _convolution(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    """``Conv*d`` and ``ConvTranspose*d``; the graph says how many groups are left."""
    groups = _first((groups_of(n) for n in nodes if n.target in CONVOLUTIONS), layer.groups)
    rows, columns = layer.weight.shape[:2]
    made, read = (columns * groups, rows) if layer.transposed else (rows, columns * groups)
    return {"in_channels": read, "out_channels": made, "groups": groups}


def _linear(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    made, read = layer.weight.shape
    return {"in_features": read, "out_features": made}


def _bilinear(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    made, first, second = layer.weight.shape
    return {"in1_features": first, "in2_features": second, "out_features": made}


def _embedding(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    rows, width = layer.weight.shape
    return {"num_embeddings": rows, "embedding_dim": width}


def _norm_of_channels(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    """``BatchNorm*d`` and ``InstanceNorm*d``, which may hold no tensor at all."""
    norms = {aten.batch_norm.default, aten.instance_norm.default}
    return {"num_features": _first(_channels_read(nodes, norms), layer.num_features)}


def _group_norm(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    norms = {aten.group_norm.default}
    groups = _first((n.args[_GROUPS] for n in nodes if n.target in norms), layer.num_groups)
    channels = _first(_channels_read(nodes, norms), layer.num_channels)
    return {"num_groups": groups, "num_channels": channels}


def _channels_read(nodes: Sequence[fx.Node], norms: set[Any]) -> Iterable[int]:
    return (shape_of(n.all_input_nodes[0])[1] for n in nodes if n.target in norms)


def _norm_of_shape(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    """``LayerNorm`` and ``RMSNorm``: the graph's node has the shape as a literal."""
    norms = {aten.layer_norm.default, aten.rms_norm.default}
    shapes = (tuple(n.args[1]) for n in nodes if n.target in norms)  # type: ignore[arg-type]
    return {"normalized_shape": _first(shapes, layer.normalized_shape)}


def _prelu(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    return {"num_parameters": layer.weight.numel()}


def _recurrent(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    return {
        "input_size": layer.weight_ih_l0.shape[1],
        "hidden_size": layer.weight_hh_l0.shape[1],
    }


def _cell(layer: Any, nodes: Sequence[fx.Node]) -> Attributes:
    return {"input_size": layer.weight_ih.shape[1], "hidden_size": layer.weight_hh.shape[1]}


def _first(values: Iterable[Any], otherwise: Any) -> Any:
    """What the first call of the layer says; a layer that is never called stays as it is."""
    return next(iter(values), otherwise)


_RULES: dict[type[nn.Module], Rule] = {
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    nn.Embedding: _embedding,
    nn.modules.batchnorm._NormBase: _norm_of_channels,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _norm_of_shape,
    nn.RMSNorm: _norm_of_shape,
    nn.PReLU: _prelu,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
}
