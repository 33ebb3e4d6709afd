"""Write out the ops that PyTorch itself defines by other ops and that have no rule of their own."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from vibfx.graph import concrete, operands
from vibfx.passes.base import Pass
from vibfx.rules import rule_for
from vibfx.silence import silenced

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteOutComposites(Pass):
    """Replace composite ops without a rule (``hstack``, ``bilinear``, ``lstm_cell``, ``std``, ...).

    Each becomes the ops that its own kernel calls. Those with a rule stay whole, and so does an op
    whose kernel cannot be followed or calls what has no rule: it freezes what goes in.
    """

    name: ClassVar[str] = "write-out-composites"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Ops that write to their inputs are still there."""

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """And there may be more of them now."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Write out op by op."""
        modified = False
        for node in module.graph.nodes:
            if _is_unknown_composite(module, node) and (body := _body(node)):
                _put(module, node, body)
                modified = True
        return modified


def _is_unknown_composite(module: fx.GraphModule, node: fx.Node) -> bool:
    op = node.target
    return (
        node.op == "call_function"
        and isinstance(op, torch._ops.OpOverload)
        and op.has_kernel_for_dispatch_key(_COMPOSITE)
        and not op._schema.is_mutable
        and isinstance(node.meta.get("val"), (Tensor, list, tuple))
        and rule_for(module, node) is None
    )


def _body(node: fx.Node) -> fx.GraphModule | None:
    """The ops that the kernel calls, with the op's tensors as inputs; None if none can be told."""
    sources = list(dict.fromkeys(operands(node)))
    values = [source.meta["val"] for source in sources]
    mode = next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)
    if mode is None or (sizes := mode.shape_env) is None:
        return None

    def run(*tensors: Tensor) -> Any:
        given = dict(zip(sources, tensors, strict=True))
        args: Any = fx.map_arg(node.args, lambda n: given.get(n, n.meta["val"]))
        kwargs: Any = fx.map_arg(node.kwargs, lambda n: given.get(n, n.meta["val"]))
        return node.target.decompose(*args, **kwargs)  # type: ignore[union-attr]

    try:
        # Else what a kernel asks of a size would be taken for a promise that it never changes.
        with mode, sizes.suppress_guards(), torch.no_grad(), silenced():
            body = make_fx(run)(*values)
        known = all(_is_known(body, n) for n in body.graph.nodes)
        return body if known and _follows_the_batch(body, run, values) else None
    except Exception as error:  # kernels raise many kinds on tensors without content
        _log.debug("%s is not written out: %s", node.target, error)
        return None


def _follows_the_batch(body: fx.GraphModule, run: Callable[..., Any], values: list[Tensor]) -> bool:
    """Try it with twice as many examples: some kernels bake in how many there were."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for value in values:
        shape = [2 * concrete(n) if isinstance(n, torch.SymInt) else n for n in value.shape]
        if value.is_floating_point():
            drawn = torch.rand(shape, generator=generator) + 0.5
        else:
            drawn = torch.zeros(shape)
        inputs.append(drawn.to(value.device, value.dtype))
    with torch.no_grad():
        pairs = zip(
            pytree.tree_leaves(run(*inputs)), pytree.tree_leaves(body(*inputs)), strict=True
        )
        return all(a.shape == b.shape and torch.allclose(a, b) for a, b in pairs)


def _is_known(body: fx.GraphModule, node: fx.Node) -> bool:
    """Whether something is gained: an op with a rule, one that writes to its input, a number.

    Constants of a kernel's own, and sizes that it took from somewhere else than its inputs, cannot
    be put into the graph.
    """
    literals = pytree.tree_leaves((node.args, dict(node.kwargs)))
    if node.op == "get_attr" or any(isinstance(x, torch.SymInt) for x in literals):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or not node.all_input_nodes:
        return True
    return (
        rule_for(body, node) is not None
        or node.target._schema.is_mutable
        or not isinstance(node.meta["val"], Tensor)
    )


def _put(module: fx.GraphModule, node: fx.Node, body: fx.GraphModule) -> None:
    """Put the body where the node is."""
    placeholders = body.graph.find_nodes(op="placeholder")
    sources = list(dict.fromkeys(operands(node)))
    copies: dict[fx.Node, Any] = dict(zip(placeholders, sources, strict=True))
    with module.graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "call_function":
                copies[inner] = module.graph.node_copy(inner, copies.__getitem__)
                copies[inner].meta.update(_origin(node))
    (output,) = body.graph.find_nodes(op="output")
    results: Any = fx.map_arg(output.args[0], copies.__getitem__)
    if isinstance(results, (list, tuple)):
        for user in list(node.users):  # getitem, each of one result
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            module.graph.erase_node(user)
    else:
        node.replace_all_uses_with(results)
    module.graph.erase_node(node)


def _origin(node: fx.Node) -> dict[str, Any]:
    """Where a node comes from: its module and its source line."""
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
