import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from vibfx.arguments import arguments, is_known, register_dataclasses
from vibfx.errors import TraceError


def refusal(*given):
    with pytest.raises(TraceError) as caught:
        arguments(*given)
    return caught.value


def test_a_tensor_a_sequence_and_a_mapping():
    x, y = torch.ones(2, 3), torch.ones(2)
    assert arguments(x).args == (x,)
    assert arguments([x, None, 3]).args == (x, None, 3)
    assert arguments(iter([x, y])).args == (x, y)
    assert arguments({"x": x, "flag": True}).kwargs == {"x": x, "flag": True}
    both = arguments((x,), {"y": y})
    assert (both.args, both.kwargs) == ((x,), {"y": y})
    assert arguments({"x": x}, {"y": y}).kwargs == {"x": x, "y": y}


def test_tensors_are_found_at_any_depth_in_order():
    a, b, c = (torch.full((2,), float(n)) for n in range(3))
    assert arguments((a, {"p": [b, (None, 2)]}), {"c": c}).tensors == [a, b, c]


def test_the_likeliest_batch_is_what_most_inputs_begin_with():
    mask, x, y, scalar = torch.ones(5, 5), torch.ones(2, 3), torch.ones(2), torch.tensor(1.0)
    assert arguments((mask, x, y, scalar)).batch_sizes() == [2, 5]
    assert arguments((x, mask)).batch_sizes() == [2, 5]
    assert arguments(scalar).batch_sizes() == []


def test_batches_of_one_are_doubled_wherever_they_are():
    x, mask, scalar = torch.arange(2.0).reshape(1, 2), torch.ones(5, 5), torch.tensor(1.0)
    given = arguments((x, {"deep": [x, mask]}), {"scalar": scalar})
    doubled = given.with_batch(1)
    assert [tuple(t.shape) for t in doubled.tensors] == [(2, 2), (2, 2), (5, 5), ()]
    assert doubled.tensors[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert given.with_batch(5) is given


def test_a_dataclass_is_registered_once():
    @dataclasses.dataclass
    class Pair:
        a: Tensor
        b: Tensor

    pair = Pair(torch.ones(2), torch.zeros(2))
    assert not is_known(pair)
    assert arguments((pair,)).tensors == [pair.a, pair.b]
    assert not register_dataclasses([pair])


@pytest.mark.parametrize(
    ("inputs", "described"),
    [((torch.ones(2, 3), "x"), "str"), ([np.ones((2, 3))], "ndarray"), ([object()], "object")],
)
def test_refuses_what_is_neither_tensor_nor_constant(inputs, described):
    error = refusal(inputs)
    assert error.what == f"an example input is {described}"
    assert error.hint.startswith("Pass a tensor, a sequence of positional arguments or a mapping")


@pytest.mark.parametrize("inputs", [None, 3, [[1.0, 2.0]], (), {}, (None, True)])
def test_refuses_inputs_without_a_tensor(inputs):
    assert refusal(inputs).what == "none of the example inputs is a tensor"


def test_refuses_an_empty_batch():
    error = refusal({"x": torch.ones(0, 3)})
    assert error.what == "an example input of shape (0, 3) holds no examples"
    assert error.hint == "Give a batch of at least one example."
