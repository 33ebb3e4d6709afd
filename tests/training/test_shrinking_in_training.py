"""Graphs that get smaller while they are trained."""

import pytest
import torch
from networks import gated
from tasks import Interrupting, graph, images, one_thread, training_accuracy  # noqa: F401

import vibfx
from vibfx.gates import gates_of
from vibfx.passes import PruneChannels
from vibfx.training.phases import train

QUICK = {"epochs": 20, "lr": 5e-3}


def gated_net(seed=0):
    return gated(graph(seed))


@pytest.fixture(scope="module", params=["flops=0.2", None])
def shrunk(request):
    """What was trained with shrinking: the graph, and how many parameters it had at each report."""
    module, sizes = gated_net(), []

    def note(state):
        sizes.append(sum(p.numel() for p in module.parameters()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vibfx.training.meter, "_REPORT_EVERY", 0.0)
        gamma = None if request.param else 0.005
        train(module, images(), target=request.param, gamma=gamma, on_progress=note, **QUICK)
    return request.param, module, sizes


def test_the_graph_gets_smaller_while_it_is_trained(shrunk):
    _, _, sizes = shrunk
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.6 * sizes[0]
    assert len(set(sizes)) > 1


def test_afterwards_all_units_are_there_again_those_that_went_shut(shrunk):
    target, module, sizes = shrunk
    assert {n: p.shape for n, p in module.named_parameters()} == {
        n: p.shape for n, p in gated_net().named_parameters()
    }
    plan = vibfx.plan(module)
    small = PruneChannels(plan)(module).graph_module
    assert vibfx.verify(module, small).error < 1e-9
    assert sum(p.numel() for p in small.parameters()) <= sizes[-1]
    if target:
        left = vibfx.measure(small).flops / vibfx.measure(module).flops
        assert 0.1 < left <= 0.2
    assert training_accuracy(module) > 0.6  # chance is 0.25


def test_without_shrinking_the_graph_keeps_its_size(monkeypatch):
    monkeypatch.setattr(vibfx.training.meter, "_REPORT_EVERY", 0.0)
    module, sizes = gated_net(), set()
    train(
        module,
        images(),
        target="flops=0.2",
        shrinking=False,
        on_progress=lambda state: sizes.add(sum(p.numel() for p in module.parameters())),
        **QUICK,
    )
    assert len(sizes) == 1


def test_no_unit_goes_that_may_have_to_open_again_to_meet_the_target():
    """Every gate is far below its threshold from the start; half of the units come back."""
    module = gated_net()
    with torch.no_grad():
        for gate in gates_of(module).values():
            gate.log_sigma2.fill_(9.0)
    train(module, images(), target="flops=0.5", lr=1e-6, epochs=1)
    small = PruneChannels(vibfx.plan(module))(module).graph_module
    assert 0.35 < vibfx.measure(small).flops / vibfx.measure(module).flops <= 0.5


def test_a_failure_leaves_the_graph_in_its_full_shape():
    module = gated_net()
    shapes = {n: p.shape for n, p in module.named_parameters()}
    batches = Interrupting(images(), 40, RuntimeError)
    with pytest.raises(RuntimeError):
        train(module, batches, target="flops=0.2", **QUICK)
    assert {n: p.shape for n, p in module.named_parameters()} == shapes
