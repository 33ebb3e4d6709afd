"""The oracle on whole networks: cut, folded and exported graphs compute the same function."""

import onnx
import pytest
import torch
from networks import ARCHITECTURES, shut_network, traced, with_one_unit_back

import vibfx
from vibfx.errors import EquivalenceError
from vibfx.graph import to_dtype
from vibfx.onnx_export import export_onnx
from vibfx.passes import FoldGates, PruneChannels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cut_graph_equals_gated_graph(name, seed):
    gated = shut_network(name, seed)
    small = PruneChannels(vibfx.plan(gated))(gated).graph_module

    found = vibfx.verify(gated, small, batch_sizes=(1, 3), seed=seed)

    assert found.error < 1e-9
    assert found.sensitivity > 1e-4  # the check could have failed
    before, after = vibfx.measure(gated), vibfx.measure(small)
    assert after.parameters < 0.45 * before.parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folded_graph_equals_gated_graph_and_holds_no_gate(name):
    gated = to_dtype(shut_network(name), torch.float64)
    small = PruneChannels(vibfx.plan(gated))(gated).graph_module
    folded = FoldGates()(small).graph_module

    assert vibfx.verify(gated, folded).error < 1e-9
    ungated = len(traced(*_network(name)).graph.nodes)
    assert len(folded.graph.nodes) == ungated  # neither a gate nor a multiplication is left


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_negative_control_is_told_apart(name):
    gated = shut_network(name)
    small = PruneChannels(vibfx.plan(gated))(gated).graph_module
    with pytest.raises(EquivalenceError, match="first node that differs"):
        vibfx.verify(with_one_unit_back(gated), small)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnx_runtime_agrees_and_holds_no_gate(name, tmp_path):
    gated = shut_network(name)
    small = PruneChannels(vibfx.plan(gated))(gated).graph_module
    original = export_onnx(traced(*_network(name)), tmp_path / "original.onnx")
    found = export_onnx(small, tmp_path / "small.onnx")

    assert found.difference < 1e-4
    assert found.nodes <= original.nodes
    assert _ops(found.path) <= _ops(original.path)  # no trace of a gate


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nearly_all_parameters_are_removable(name):
    graph = traced(*_network(name))
    assert vibfx.analyze(graph).removable_share(graph) > 0.99


def _network(name):
    build, shape = ARCHITECTURES[name]
    return build().eval(), shape


def _ops(path):
    return {node.op_type for node in onnx.load(path).graph.node}
