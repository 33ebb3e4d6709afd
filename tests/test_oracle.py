"""The oracle on whole networks: cut, folded and exported graphs compute the same function."""

import functools

import onnx
import pytest
import torch
from networks import ARCHITECTURES, original, shut_network, with_one_unit_back

import vibfx
from vibfx.copying import copy_graph_module
from vibfx.errors import EquivalenceError
from vibfx.export import export_onnx
from vibfx.graph import to_dtype
from vibfx.passes import FoldGates, PruneChannels


@functools.lru_cache(maxsize=2)
def cut(name, seed=0):
    """A gated network with units shut, and the same without those units."""
    gated = shut_network(name, seed)
    return gated, PruneChannels(vibfx.plan(gated))(gated).graph_module


# One network after the other, so that each is traced and cut once.
pytestmark = pytest.mark.parametrize("name", ARCHITECTURES, scope="module")


@pytest.mark.parametrize(("seed", "batch_sizes"), [(0, (1, 3)), (1, (4,))])
def test_cut_graph_equals_gated_graph(name, seed, batch_sizes):
    gated, small = cut(name, seed)
    found = vibfx.verify(gated, small, batch_sizes=batch_sizes, seed=seed)
    assert found.error < 1e-9
    assert found.sensitivity > 1e-4  # the check could have failed
    assert vibfx.measure(small).parameters < 0.45 * vibfx.measure(gated).parameters


def test_negative_control_is_told_apart(name):
    gated, small = cut(name)
    with pytest.raises(EquivalenceError, match="first node that differs"):
        vibfx.verify(with_one_unit_back(gated), small)


def test_folded_graph_equals_gated_graph_and_holds_no_gate(name):
    gated, small = cut(name)
    exact = to_dtype(copy_graph_module(small), torch.float64)
    folded = FoldGates()(exact).graph_module
    assert vibfx.verify(gated, folded).error < 1e-9
    assert len(folded.graph.nodes) == len(original(name).graph.nodes)  # no multiplication either


def test_onnx_runtime_agrees_and_holds_no_gate(name, tmp_path):
    before = export_onnx(original(name), tmp_path / "original.onnx")
    after = export_onnx(cut(name)[1], tmp_path / "small.onnx")
    assert after.difference < 1e-4
    assert after.nodes <= before.nodes
    assert _ops(after.path) <= _ops(before.path)  # no trace of a gate


def test_nearly_all_parameters_are_removable(name):
    assert vibfx.analyze(original(name)).removable_share(original(name)) > 0.99


def _ops(path):
    return {node.op_type for node in onnx.load(path).graph.node}
