"""The arguments of nodes as JSON and back."""

import json
import math

import pytest
import torch
from torch import fx

from vibfx.errors import ModelFileError, OutputError
from vibfx.model_files.literals import read, written


def through_text(value, nodes=()):
    return read(json.loads(json.dumps(written(value))), {node.name: node for node in nodes})


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, "mean", 0.1, 1e-300, -0.0, math.inf, -math.inf, 2 + 3j),
        *([1, [2.0, None]], (1, (2,)), [slice(None, 3), slice(1, None, 2)]),
        *(torch.float16, torch.device("cpu"), torch.strided, torch.channels_last),
    ],
    ids=str,
)
def test_constants_come_back_as_they_are(value):
    assert through_text(value) == value
    assert type(through_text(value)) is type(value)


def test_what_is_no_number_comes_back():
    assert math.isnan(through_text(math.nan))


def test_nodes_come_back_as_the_nodes_of_that_name():
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    assert through_text([x, (y, 2)], [x, y]) == [x, (y, 2)]


def test_what_has_no_text_is_refused():
    with pytest.raises(OutputError, match="an argument of type Tensor cannot be written"):
        written([torch.ones(2)])


def test_what_is_no_argument_is_refused():
    with pytest.raises(ModelFileError, match="is a 'code'"):
        read({"code": "1"}, {})
    with pytest.raises(KeyError):
        read({"dtype": "torch.nosuch"}, {})
    with pytest.raises(KeyError):
        read({"node": "x"}, {})
