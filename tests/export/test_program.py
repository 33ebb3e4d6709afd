"""Exported programs: they load without vibfx and compute the same."""

import zipfile

import torch
from networks import gated, randomize, shut_half
from tasks import graph

import vibfx
from vibfx.export import save_program
from vibfx.passes import FoldGates, PruneChannels


def test_a_saved_program_loads_and_computes_the_same(tmp_path):
    module = gated(graph())
    shut_half(module)
    randomize(module, (1, 8, 8))
    folded = FoldGates()(PruneChannels(vibfx.plan(module))(module).graph_module).graph_module
    save_program(folded, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 5):
        x = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(batch))
        assert torch.equal(program(x), folded(x))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_program_tells_nothing_of_where_the_model_s_source_lies(tmp_path):
    save_program(graph(), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = b"".join(map(archive.read, archive.namelist()))
    assert b"conv2d" in contents
    assert b".py" not in contents
