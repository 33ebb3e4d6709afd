"""Why a module's class cannot be what the cut graph is: true reasons, with what would work."""

import traceback
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from vibfx.applying.agreement import TOLERANCE, Pair, distance
from vibfx.applying.narrowing import resized
from vibfx.errors import PlanError
from vibfx.graph import module_path, source_line, tensor_at, tensor_names, where
from vibfx.inputs import call_arguments, flattened
from vibfx.planning import PruningPlan

aten = torch.ops.aten

_CUT_THE_GRAPH = "PruneChannels(plan)(vibfx.trace(model, examples)) gives it as a graph."


# What divides by how many channels there are, and what the rewrite puts beside it.
_FACTORS = {aten.mul.Tensor}
_STATISTICS = {
    aten.layer_norm.default,
    aten.rms_norm.default,
    aten.group_norm.default,
    aten.mean.default,
    *(op for packet in (aten.var, aten.std) for op in (packet.dim, packet.correction)),
    *(op for packet in (aten.var_mean, aten.std_mean) for op in (packet.dim, packet.correction)),
    aten.mean.dim,
}


def check_class_can(
    plan: PruningPlan, module: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule
) -> None:
    """Refuse what no module of this class can compute, whatever its sizes.

    Args:
        plan: The plan.
        module: The module as it was.
        graph: Its graph as it was.
        cut: The graph, cut.

    Raises:
        PlanError: With the reason.
    """
    for name, dims in plan.parameters.items():
        if () in dims.values():
            raise PlanError(
                "the plan removes all channels of a layer, which the module's forward still calls",
                where=name,
                hint=f"Keep at least one unit of its group. {_CUT_THE_GRAPH}",
            )
    node = _rewritten_norm(graph, cut)
    if node is not None:
        raise PlanError(
            f"the plan cuts channels from under {_op(node)}, which has to divide by their "
            "original number still; the module's class divides by what is left",
            where=where(node),
            hint=f'Make the plan with norms="freeze". {_CUT_THE_GRAPH}',
        )
    for path, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention) and (kept := _odd_heads(layer, path, plan)):
            raise PlanError(
                f"the plan leaves {kept} of {layer.embed_dim} channels of the heads of an "
                "nn.MultiheadAttention, which needs as many there as it reads",
                where=path,
                hint=f"Leave its heads whole. {_CUT_THE_GRAPH}",
            )


def _op(node: fx.Node) -> str:
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return f"a {name.replace('_', ' ')}"


def _rewritten_norm(graph: fx.GraphModule, cut: fx.GraphModule) -> fx.Node | None:
    """The first norm, mean or variance that was rewritten with its original denominator."""
    own = {node.name for node in graph.graph.nodes}
    after = {node.name: node for node in cut.graph.nodes}
    for node in graph.graph.nodes:
        if node.target not in _STATISTICS:
            continue
        left = after.get(node.name)
        if left is None or left.target != node.target:
            return node  # type: ignore[no-any-return]
        around = [*left.users, *left.all_input_nodes]
        if any(other.name not in own for other in around if other.target in _FACTORS):
            return node  # type: ignore[no-any-return]
    return None


def _odd_heads(layer: nn.MultiheadAttention, path: str, plan: PruningPlan) -> int | None:
    """How many channels its heads keep, where that is another number than its input keeps."""
    stem = f"{path}." if path else ""
    heads = plan.parameters.get(f"{stem}out_proj.weight", {}).get(1)
    read = plan.parameters.get(f"{stem}in_proj_weight") or plan.parameters.get(
        f"{stem}q_proj_weight", {}
    )
    left, given = (layer.embed_dim if kept is None else len(kept) for kept in (heads, read.get(1)))
    return left if left != given else None


def of_raised(
    error: Exception, module: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule
) -> PlanError:
    """The line of the user's code at which the narrowed module does not run.

    Args:
        error: What it raised.
        module: The module.
        graph: Its graph as it was.
        cut: The graph, cut.
    """
    frames = _frames(error)
    lines = {f"{_file(frame)}:{frame.lineno}" for frame in frames}
    gather = next((node for node in _new_gathers(graph, cut) if source_line(node) in lines), None)
    if gather is not None:
        return _of_gather(gather, "")
    sized = any(source_line(node) in lines for node in resized(graph, cut))
    return PlanError(
        f"a size in the module's forward no longer fits: {_message(error)}"
        if sized
        else f"the narrowed module does not run: {_message(error)}",
        where=_deepest_line(frames) or type(module).__name__,
        hint="This line, or one before it, counts on sizes that the plan changes. Take them from "
        f"the shapes of the layers' weights or of what they make. {_CUT_THE_GRAPH}",
    )


def of_training(error: Exception, unread: list[str]) -> PlanError:
    """The narrowed module runs in evaluation but not in training."""
    of = f" by {_listed(unread)}" if unread else ""
    return PlanError(
        f"in training the module reads{of} what the plan cuts and no graph of its evaluation "
        f"holds: {_message(error)}",
        where=_deepest_line(_frames(error)),
        hint="Take out of the module what runs in training only, and apply the plan then.",
    )


def of_untried(error: Exception, unread: list[str]) -> PlanError:
    """The module does not run in training on its examples, cut or not, and may read more there."""
    return PlanError(
        f"evaluation does not read {_listed(unread)}, and in training the module does not run on "
        f"these inputs, so that it cannot be told what the cut means for that: {_message(error)}",
        where=_deepest_line(_frames(error)),
        hint="Pass inputs on which it trains, or take out of the module what evaluation does not "
        "read.",
    )


def of_difference(error: float, pair: Pair, graph: fx.GraphModule) -> PlanError:
    """The narrowed module runs, but computes something else.

    Args:
        error: The relative error.
        pair: The module and the cut graph.
        graph: The graph as it was.
    """
    place, inputs = _first_difference(pair)
    gather = _last_gather(graph, pair.graph, place)
    if gather is not None:
        return _of_gather(gather, place)
    what = f"; {place} is the first whose {inputs} differs" if place else ""
    return PlanError(
        f"the narrowed module computes something else than the cut graph: relative error "
        f"{error:.2e}, allowed {TOLERANCE:.0e}{what}",
        where=place or type(pair.module).__name__,
        hint=f"A size or an index is written into its code. {_CUT_THE_GRAPH}",
    )


def _of_gather(gather: fx.Node, place: str) -> PlanError:
    return PlanError(
        "the channels that are left would have to be picked one by one, which the module's own "
        f"code does not do{f'; it shows first in {place}' if place else ''}",
        where=where(gather),
        hint="Keep as many channels of each part that is split off or shuffled, at the same "
        f"places. {_CUT_THE_GRAPH}",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _message(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), repr(error))


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """The frames below the module's call that are not torch's own, the innermost last."""
    frames = list(traceback.extract_tb(error.__traceback__))
    inside = next((at for at, f in enumerate(frames) if _within(f, "torch/nn/modules")), 0)
    return [frame for frame in frames[inside:] if not _within(frame, "torch")]


def _deepest_line(frames: list[traceback.FrameSummary]) -> str | None:
    """``file.py:line: code`` in the user's code rather than torchvision's, if it gets there."""
    own = [frame for frame in frames if not _within(frame, "torchvision")] or frames
    return f"{_file(own[-1])}:{own[-1].lineno}: {own[-1].line}" if own else None


def _file(frame: traceback.FrameSummary) -> str:
    return frame.filename.rpartition("/")[2]


def _within(frame: traceback.FrameSummary, package: str) -> bool:
    return f"/{package}/" in frame.filename.replace("\\", "/")


def _first_difference(pair: Pair) -> tuple[str, str]:
    """The first layer whose input or output is not the cut graph's; empty where none is found."""
    inputs = next(pair.inputs())
    args, kwargs = call_arguments(pair.graph, inputs)
    seen: list[tuple[str, Any, Any]] = []
    handles = [
        layer.register_forward_hook(
            lambda _, given, result, path=path: seen.append((path, given, result))
        )
        for path, layer in pair.module.named_modules()
        if path and not any(layer.children())
    ]
    with torch.no_grad():
        pair.module(*args, **kwargs)
    for handle in handles:
        handle.remove()
    calls = [path for path, _, _ in seen]
    expected = _values_by_module(pair.graph, inputs)
    for path, given, result in seen:
        if calls.count(path) > 1 or path not in expected:
            continue
        read, made = expected[path]
        if read is not None and not _same(given, read):
            return path, "input"
        if not _same(result, made):
            return path, "output"
    return "", ""


def _same(own: Any, expected: Tensor) -> bool:
    tensors = [leaf for leaf in pytree.tree_leaves(own) if isinstance(leaf, Tensor)]
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return len(tensors) != 1 or distance(tensors, [expected]) <= TOLERANCE * max(scale, 1e-30)


def _values_by_module(
    graph: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> dict[str, tuple[Tensor | None, Tensor]]:
    """What each layer of a graph reads, where that is one tensor, and makes."""
    flat = flattened(graph)
    found: dict[str, tuple[Tensor | None, Tensor]] = {}
    runner = fx.Interpreter(flat, garbage_collect_values=False)
    with torch.no_grad():
        runner.run(*inputs)
    for node in flat.graph.nodes:
        path = module_path(node)
        if not path or node.op != "call_function" or not isinstance(runner.env[node], Tensor):
            continue
        read = [runner.env[n] for n in node.all_input_nodes if n.op != "get_attr"]
        first = found[path][0] if path in found else None
        if path not in found and len(read) == 1 and isinstance(read[0], Tensor):
            first = read[0]
        found[path] = first, runner.env[node]
    return found


def _last_gather(graph: fx.GraphModule, cut: fx.GraphModule, place: str) -> fx.Node | None:
    """The last new gather in a layer or in front of it; of all where no layer is named."""
    end = next((n for n in reversed(cut.graph.nodes) if place and module_path(n) == place), None)
    found = [n for n in _new_gathers(graph, cut) if end is None or not n > end]
    return found[-1] if found else None


def _new_gathers(graph: fx.GraphModule, cut: fx.GraphModule) -> list[fx.Node]:
    """The gathers in a cut graph by positions that only it knows."""
    own = {node.name: node for node in graph.graph.nodes}
    return [n for n in cut.graph.nodes if _is_new_gather(n, own.get(n.name), graph, cut)]


def _is_new_gather(
    node: fx.Node, old: fx.Node | None, graph: fx.GraphModule, cut: fx.GraphModule
) -> bool:
    if node.target not in (aten.index_select.default, aten.index.Tensor):
        return False
    if old is None or old.target != node.target:
        return True
    return not torch.equal(_table(graph, old), _table(cut, node))


def _table(module: fx.GraphModule, node: fx.Node) -> Tensor:
    read = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return tensor_at(module, str(read[-1].target)) if read else torch.zeros(0)


def unread_parts(module: nn.Module, graph: fx.GraphModule) -> list[str]:
    """The module's own parts that hold parameters which the graph does not read."""
    read = {name for name, _ in tensor_names(graph)}
    names = (name for name, _ in module.named_parameters() if name not in read)
    return list(dict.fromkeys(name.partition(".")[0] for name in names))
