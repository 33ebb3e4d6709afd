"""A graph's two files: read back bit for bit, and refused where they were changed."""

import json

import pytest
import torch
from networks import Residual, traced
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.graph import tensor_names
from vibfx.model_files.saved_graph import GRAPH_FILES, TENSORS, TEXT, load_graph, save_graph


@pytest.fixture
def saved(tmp_path):
    graph = traced(Residual(), (1, 12, 12))
    save_graph(graph, tmp_path)
    return graph, tmp_path


def test_two_files_hold_it_all(saved):
    graph, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == sorted(GRAPH_FILES)
    found = load_graph(folder)
    for (name, old), (same, new) in zip(tensor_names(graph), tensor_names(found), strict=True):
        assert name == same
        assert torch.equal(old, new)
    x = torch.randn(4, 1, 12, 12)
    assert torch.equal(found(x), graph(x))


def test_whoever_may_read_the_text_may_read_the_tensors(saved):
    text, tensors = (saved[1] / name for name in (TEXT, TENSORS))
    assert tensors.stat().st_mode == text.stat().st_mode


def test_tensors_are_aligned_in_memory_as_torch_makes_them(saved):
    found = load_graph(saved[1])
    assert {tensor.data_ptr() % 64 for _, tensor in tensor_names(found)} == {0}


def whole_numbers(*shape):
    return torch.randint(-9, 10, shape).float()


class Odd(nn.Module):
    """Tensors in every layout: a view of another, a transposed one, an empty one, other types.

    Of whole numbers, whose sums are exact in any order: which one it is, depends on the layout.
    """

    def __init__(self):
        super().__init__()
        self.whole = nn.Parameter(whole_numbers(4, 6))
        self.register_buffer("row", self.whole.detach()[1])
        self.register_buffer("turned", whole_numbers(3, 6).T)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("coarse", whole_numbers(3).half())

    def forward(self, x):
        y = (x @ self.whole + self.row) @ self.turned
        return torch.where(self.mask, y, self.coarse.float())


def test_tensors_in_any_layout_and_type_are_saved(tmp_path):
    graph = traced(Odd(), (4,))
    save_graph(graph, tmp_path)
    x = whole_numbers(3, 4)
    assert torch.equal(load_graph(tmp_path)(x), graph(x))


def test_a_missing_file_is_named(saved):
    _, folder = saved
    (folder / TENSORS).unlink()
    with pytest.raises(ModelFileError, match="cannot be read") as error:
        load_graph(folder)
    assert error.value.where == str(folder / TENSORS)


def test_a_later_format_is_refused(saved):
    _, folder = saved
    text = json.loads((folder / TEXT).read_text())
    (folder / TEXT).write_text(json.dumps(text | {"format": 2}))
    with pytest.raises(ModelFileError, match="has format 2; this version of vibfx reads 1"):
        load_graph(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format": 1}', "[" * 100_000, "\x00"])
def test_what_is_no_graph_is_refused(saved, text):
    _, folder = saved
    (folder / TEXT).write_text(text)
    with pytest.raises(ModelFileError, match="damaged") as error:
        load_graph(folder)
    assert error.value.where == str(folder / TEXT)


def test_tensors_of_another_network_are_refused(saved, tmp_path):
    _, folder = saved
    other = tmp_path / "other"
    other.mkdir()
    save_graph(traced(Residual(4), (1, 12, 12)), other)
    (other / TENSORS).replace(folder / TENSORS)
    with pytest.raises(ModelFileError, match="is not the tensor that was saved with it"):
        load_graph(folder)
