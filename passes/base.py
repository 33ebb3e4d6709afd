"""What every pass is: a frozen dataclass whose fields are its options, and a ``rewrite``."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from vibfx.copying import own_tensors, share_graph_module
from vibfx.graph import check_graph


@dataclass(frozen=True)
class Pass(PassBase):
    """A graph rewrite: call it with a graph module, get a ``PassResult(graph_module, modified)``.

    The graph is checked before and after. Unless a pass says ``in_place``, it works on a copy: what
    is handed in stays as it is, and the result shares no tensor with it. While it works the two do
    share them: a rewrite puts new tensors in their place, and never writes into one.
    """

    name: ClassVar[str]
    in_place: ClassVar[bool] = False

    def rewrite(self, module: fx.GraphModule) -> bool:
        """Change the module; return whether anything was changed."""
        raise NotImplementedError

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Checked before: the graph keeps the structural rules."""
        check_graph(graph_module)

    def ensures(self, graph_module: fx.GraphModule) -> None:
        """Checked after, on the result: the graph still keeps them."""
        check_graph(graph_module)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass without the checks around it."""
        module = graph_module if self.in_place else share_graph_module(graph_module)
        modified = self.rewrite(module)
        if modified:
            for node in reversed(module.graph.nodes):  # fx's own way checks the graph each time
                if not node.users and not node.is_impure():
                    module.graph.erase_node(node)
            module.delete_all_unused_submodules()
        if not self.in_place:
            own_tensors(module, graph_module)
        if modified or not self.in_place:
            module.recompile()
        return PassResult(module, modified)

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Check, rewrite, check again.

        Raises:
            VibfxError: With a note that names the pass.
        """
        try:
            self.requires(graph_module)
            result = self.call(graph_module)
            self.ensures(result.graph_module)
        except Exception as error:
            error.add_note(f"in pass {self.name}")
            raise
        return result
