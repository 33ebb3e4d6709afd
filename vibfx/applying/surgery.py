"""``vibfx.apply``: a plan cuts the user's own module, in place."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from vibfx.applying.agreement import TOLERANCE, Pair, runs_in_training
from vibfx.applying.narrowing import Narrowing, of_layers, of_own_numbers, set_values
from vibfx.applying.refusals import (
    check_class_can,
    of_difference,
    of_raised,
    of_training,
    of_untried,
    unread_parts,
)
from vibfx.architecture import check_parameters
from vibfx.arguments import Inputs
from vibfx.errors import PlanError, TraceError, VibfxError
from vibfx.metrics import Measures, measure
from vibfx.passes.prune_channels import PruneChannels
from vibfx.planning import PruningPlan
from vibfx.tracing import trace


@dataclass(frozen=True)
class Applied:
    """What a plan did to a module.

    Attributes:
        module: The module that was handed in, cut.
        error: How far its outputs are from the cut graph's, relative to their change between two
            inputs.
        before: What it cost.
        after: What it costs now.
    """

    module: nn.Module
    error: float
    before: Measures
    after: Measures


def apply(plan: PruningPlan, module: nn.Module, examples: Inputs | None = None) -> nn.Module:
    """Cut a module by a plan, in place: same class, same ``forward``, fewer channels.

    The module is traced and the graph cut, as ``PruneChannels`` does it. Then a copy of the module
    is cut: parameters, buffers and the attributes of layers. Only where that copy computes what the
    cut graph does, the module itself is cut. It stays the object that it is, as do its layers and
    parameters: hooks, ties, its mode and ``requires_grad`` stay. An optimizer's state does not fit
    any more: make a new one.

    Args:
        plan: Which indices stay; made from a network of this architecture, with whatever weights.
        module: The module.
        examples: Inputs that it takes, as for ``vibfx.trace``; by default those that the plan was
            made with, in shape and type.

    Returns:
        ``module``.

    Raises:
        PlanError: The plan is for another network, or no module of this class can be what the plan
            asks for; says why and where. The module is as it was.
        TraceError: The module cannot be captured.
        EquivalenceError: Its output does not depend on its input, so that nothing can be told.
    """
    return applied(plan, module, examples).module


def applied(plan: PruningPlan, module: nn.Module, examples: Inputs | None = None) -> Applied:
    """Like ``apply``, with what was measured."""
    graph = _traced(plan, module, examples)
    cut = PruneChannels(plan)(graph).graph_module
    check_class_can(plan, module, graph, cut)
    narrowing, error = _proved(plan, module, graph, cut)
    narrowing.apply(module)
    return Applied(module, error, measure(graph), measure(cut))


def _traced(plan: PruningPlan, module: nn.Module, examples: Inputs | None) -> fx.GraphModule:
    """The graph of the module; one that the plan is not for may not take the plan's inputs."""
    given, named = (examples, None) if examples is not None else plan.architecture.examples(module)
    try:
        return trace(module, given, named)
    except TraceError:
        check_parameters(module, plan.shapes)
        raise


def _proved(
    plan: PruningPlan, module: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule
) -> tuple[Narrowing, float]:
    """Changes that make a copy of the module agree with the cut graph, and how closely.

    Raises:
        PlanError: There are none.
    """
    small = _copied(module)
    Narrowing(plan, {}).apply(small)
    values = of_layers(small, cut)
    refusals: list[PlanError] = []
    for own in ({}, *of_own_numbers(module, graph, cut)):
        values = own | values
        set_values(small, values)
        try:
            error = _error(small, graph, cut)
        except PlanError as refusal:
            refusals.append(refusal)
        else:
            _check_training(small, module, graph, cut)
            return Narrowing(plan, values), error
    raise refusals[min(1, len(refusals) - 1)]  # with what the module's own numbers say, if any


def _error(small: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule) -> float:
    """How far a narrowed module is from the cut graph.

    Raises:
        PlanError: Too far, or it does not run.
    """
    pair = Pair.of(small, cut, torch.float64)
    try:
        error = pair.error()
    except VibfxError:
        raise
    except Exception:  # it may be written for one precision
        pair = Pair.of(small, cut, torch.float32)
        try:
            error = pair.error()
        except Exception as own:  # the model is the user's code, and may raise anything
            raise of_raised(own, small, graph, cut) from own
    if not error <= TOLERANCE:
        raise of_difference(error, pair, graph)
    return error


def _check_training(
    small: nn.Module, module: nn.Module, graph: fx.GraphModule, cut: fx.GraphModule
) -> None:
    """Refuse where the module could be trained, and could not any more.

    Raises:
        PlanError: With what training reads and the graph does not.
    """
    error = runs_in_training(small, cut)
    if error is None:
        return
    unread, before = unread_parts(module, graph), runs_in_training(_copied(module), graph)
    if before is None:
        raise of_training(error, unread) from error
    if unread:
        raise of_untried(before, unread) from before


def _copied(module: nn.Module) -> Any:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever an attribute of the user's raises
        raise PlanError(
            f"the module cannot be copied, so that nothing can be proved first: {error}",
            where=type(module).__name__,
            hint="Take off it what copy.deepcopy cannot copy.",
        ) from error
