"""What a tensor that a model takes looks like, noted and read again."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import vibfx
from vibfx.input_form import InputForm


class Scaled(nn.Module):
    def forward(self, x, tokens, scale=1.0):
        return x * tokens[:, None] * scale


def forms():
    args = (torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    graph = vibfx.trace(Scaled(), args, {"scale": 2.0})
    return [InputForm.of(node) for node in graph.graph.find_nodes(op="placeholder")]


def test_of_an_input_the_batch_is_left_open_and_a_constant_has_none():
    assert forms() == [InputForm((None, 3), "float64"), InputForm((None,), "int64"), None]


def test_json_comes_back_equal():
    for form in filter(None, forms()):
        assert InputForm.from_fields(json.loads(json.dumps(dataclasses.asdict(form)))) == form


def test_sizes_and_type():
    form = InputForm((None, 3, None), "bfloat16")
    assert form.sizes(5) == (5, 3, 5)
    assert form.torch_dtype is torch.bfloat16
    with pytest.raises(ValueError, match="larger than any machine takes"):
        form.sizes(2**20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": [None, 2**40, 2**40], "dtype": "float32"}, "larger than any machine takes"),
        ({"shape": [None, -1], "dtype": "float32"}, "no shape"),
        ({"shape": ["3"], "dtype": "float32"}, "no shape"),
        ({"shape": [3], "dtype": "load"}, "no type of numbers"),
    ],
)
def test_refuses_what_no_machine_can_make(fields, message):
    with pytest.raises(ValueError, match=message):
        InputForm.from_fields(fields)
