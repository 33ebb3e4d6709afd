"""Drop what batch norms count in training: a graph is captured as it evaluates."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from vibfx.passes.base import Pass

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class EraseCounters(Pass):
    """Remove the counting of batches from a graph that was exported in training mode."""

    name: ClassVar[str] = "erase-counters"
    in_place: ClassVar[bool] = True

    def requires(self, graph_module: fx.GraphModule) -> None:
        """A freshly exported graph does not keep the rules yet."""

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Nor need it afterwards: ops that write to their input are dealt with next."""

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Erase the additions whose result nothing reads."""
        additions = module.graph.find_nodes(
            op="call_function", target=torch.ops.aten.add_.Tensor, sort=False
        )
        counts = [node for node in additions if _counts(node) and not node.users]
        for node in counts:
            module.graph.erase_node(node)
        return bool(counts)


def _counts(node: fx.Node) -> bool:
    written = node.args[0]
    return (
        isinstance(written, fx.Node)
        and written.op == "get_attr"
        and str(written.target).rpartition(".")[2] == _COUNTER
    )
