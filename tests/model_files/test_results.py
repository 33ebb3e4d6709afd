"""A result's folder read back: by a process that has nothing of where the network came from."""

import json
import random
import subprocess
import sys

import pytest
import torch
from model_file_helpers import damaged
from networks import Residual, traced
from torch import nn

import vibfx
from vibfx.errors import ModelFileError, VibfxError
from vibfx.model_files.manifest import MANIFEST
from vibfx.model_files.saved_graph import GRAPH_FILES, TENSORS, TEXT, load_graph

SHAPE = (1, 8, 8)


def small():
    return traced(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)), SHAPE
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, graph = tmp_path_factory.mktemp("whole"), small()
    vibfx.save(graph, folder)
    return folder, graph


@pytest.fixture
def saved(whole, tmp_path):
    for name in (*GRAPH_FILES, MANIFEST):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    return tmp_path


LOAD = """
import sys
sys.modules.update(torchvision=None, timm=None, networks=None)
import torch, vibfx
folder, x, y = sys.argv[1:]
torch.save(vibfx.load(folder)(torch.load(x)), y)
"""


def test_another_process_needs_no_source_and_no_package_of_models(tmp_path):
    graph, x = traced(Residual(), (1, 12, 12)), torch.randn(3, 1, 12, 12)
    vibfx.save(graph, tmp_path / "saved")
    torch.save(x, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("saved", "x.pt", "y.pt")]
    subprocess.run([sys.executable, "-c", LOAD, *paths], check=True, cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "y.pt"), graph(x))


def test_what_comes_back_can_be_trained_saved_and_exported(saved, tmp_path):
    found = vibfx.load(saved)
    optimizer = torch.optim.SGD(found.parameters(), lr=0.1)
    found(torch.randn(4, *SHAPE)).square().sum().backward()
    optimizer.step()
    vibfx.save(found, tmp_path / "again")
    x = torch.randn(2, *SHAPE)
    assert torch.equal(vibfx.load(tmp_path / "again")(x), found(x))
    assert not torch.equal(vibfx.load(saved)(x), found(x))
    vibfx.export_onnx(found, tmp_path / "model.onnx")  # compares it with ONNX Runtime


def test_a_folder_is_a_model_like_any_other(saved, whole):
    x = torch.randn(2, *SHAPE)
    assert torch.equal(vibfx.load_model(saved)(x), whole[1](x))
    with pytest.raises(ModelFileError, match="this is a folder"):
        vibfx.load_model(saved, arch="torchvision:resnet18")


def test_a_folder_without_a_result(tmp_path):
    with pytest.raises(ModelFileError, match="manifest of the result cannot be read"):
        vibfx.load(tmp_path)


def test_a_changed_file_is_refused(saved):
    text = (saved / TEXT).read_text()
    assert '"Sequential"' in text
    (saved / TEXT).write_text(text.replace('"Sequential"', '"Sequentiam"'))
    with pytest.raises(ModelFileError, match="SHA-256 differs") as error:
        vibfx.load(saved)
    assert error.value.where == str(saved / TEXT)


def test_an_operator_of_a_library_needs_trust(saved):
    text = json.loads((saved / TEXT).read_text())
    next(n for n in text["nodes"] if n.get("calls") == "aten.relu.default")["calls"] = "my.op.x"
    (saved / TEXT).write_text(json.dumps(text))
    with pytest.raises(ModelFileError, match="not known to be harmless") as error:
        load_graph(saved)
    assert "--trust my" in error.value.hint


def corruptions(count):
    slow = pytest.mark.slow
    return [pytest.param(range(30)), pytest.param(range(30, count), marks=slow)]


@pytest.mark.parametrize("seeds", corruptions(2000), ids=["some", "many"])
@pytest.mark.parametrize("name", [*GRAPH_FILES, MANIFEST])
def test_a_corrupted_result_is_refused_or_right(whole, saved, name, seeds):
    folder, graph = whole
    x = torch.randn(2, *SHAPE)
    wanted, content = graph(x), (folder / name).read_bytes()
    for seed in seeds:
        changed = damaged(content, random.Random(seed))
        (saved / name).write_bytes(changed)
        try:
            found = vibfx.load(saved)
        except VibfxError:
            continue
        assert torch.equal(found(x), wanted), seed


@pytest.mark.parametrize("seeds", corruptions(2000), ids=["some", "many"])
@pytest.mark.parametrize("name", [TEXT, TENSORS])
def test_without_its_manifest_a_corrupted_graph_is_refused_or_another(whole, saved, name, seeds):
    content = (whole[0] / name).read_bytes()
    refused = 0
    for seed in seeds:
        (saved / name).write_bytes(damaged(content, random.Random(seed)))
        try:
            load_graph(saved)
        except VibfxError:
            refused += 1
    assert refused
