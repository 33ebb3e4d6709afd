"""The graphs that are built by hand are as good as traced ones."""

import pytest
import torch
from synthetic import LAYERS, SHAPES, WIDTH, network

import vibfx


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_built_graph_equals_a_traced_one(shape, kind):
    built = network(shape, kind, 40)
    inner = (8, 8) if kind == "conv" else ()
    traced = vibfx.trace(built, torch.randn(2, WIDTH, *inner))
    a, b = vibfx.analyze(built), vibfx.analyze(traced)
    assert [(g.name, g.size) for g in a.groups] == [(g.name, g.size) for g in b.groups]
    assert a.units > 0
    targets = [
        [n.target for n in m.graph.nodes if n.op == "call_function"] for m in (built, traced)
    ]
    assert targets[0] == targets[1]
