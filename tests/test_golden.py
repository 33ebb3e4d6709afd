"""Results that earlier versions wrote are read by this one: tests/golden is never changed.

A folder is called after its format. Its ``expected.safetensors`` holds inputs, what the network
returned for them, and the weights of the original.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from networks import Residual
from safetensors.torch import load_file

import vibfx
from vibfx.passes import PruneChannels

FOLDERS = sorted((Path(__file__).parent / "golden").iterdir())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def golden(request):
    return request.param, load_file(request.param / "expected.safetensors")


def test_there_is_one_of_every_format():
    assert [folder.name for folder in FOLDERS] == ["1"]


def test_the_network_is_read_and_computes_what_it_did(golden):
    folder, expected = golden
    found = vibfx.load(folder)
    torch.testing.assert_close(found(expected["x"]), expected["y"])
    assert vibfx.analyze(found).groups


def test_the_program_is_read_and_computes_what_it_did(golden):
    folder, expected = golden
    found = vibfx.load_model(folder / "model.pt2")
    torch.testing.assert_close(found(expected["x"]), expected["y"])


def test_the_onnx_file_computes_what_it_did(golden):
    folder, expected = golden
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: expected["x"].numpy()})
    np.testing.assert_allclose(found, expected["y"].numpy(), rtol=1e-4, atol=1e-5)


def test_the_plan_cuts_the_original_s_graph_and_class(golden):
    folder, expected = golden
    plan = vibfx.PruningPlan.load(folder / "plan.json")
    model = Residual()
    state = {name.removeprefix("original."): t for name, t in expected.items() if "." in name}
    model.load_state_dict(state)
    graph = vibfx.trace(model.eval(), expected["x"])
    small = PruneChannels(plan)(graph).graph_module
    assert plan.removed_units
    shapes = {name: tuple(p.shape) for name, p in vibfx.load(folder).named_parameters()}
    cut = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert {name: cut[name] for name in shapes if name in cut} == {
        name: shape for name, shape in shapes.items() if name in cut
    }
    vibfx.apply(plan, model)
    assert model.block1.conv1.out_channels == cut["block1.conv1.weight"][0]
