"""How arguments and results are nested, as JSON and back."""

import dataclasses
import json
from collections import OrderedDict, defaultdict, namedtuple

import pytest
import torch
from torch.utils import _pytree as pytree

from vibfx.arguments import register_dataclasses
from vibfx.nesting import nesting_of, spec_of

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Scored:
    scores: torch.Tensor
    boxes: torch.Tensor | None = None


def through_text(value):
    """The value as a caller gets it from a graph that was saved and loaded."""
    leaves, spec = pytree.tree_flatten(value)
    return pytree.tree_unflatten(leaves, spec_of(json.loads(json.dumps(nesting_of(spec)))))


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        ((1.0, 2.0), {}),
        ([1.0], {"a": 2.0, "b": [3.0, (4.0,)]}),
        {"b": 1.0, "a": 2.0, 3: 4.0},
        (None, 1.0),
        (),
    ],
)
def test_containers_come_back_as_they_are(value):
    assert through_text(value) == value
    assert type(through_text(value)) is type(value)


def test_other_mappings_come_back_as_dicts():
    assert through_text(OrderedDict(b=1.0, a=2.0)) == {"b": 1.0, "a": 2.0}
    assert type(through_text(defaultdict(list, a=1.0))) is dict


def test_a_named_tuple_keeps_its_names_without_its_class():
    found = through_text((Pair(1.0, [2.0]), 3.0))
    assert (found[0].left, found[0].right, found[1]) == (1.0, [2.0], 3.0)


def test_a_dataclass_comes_back_as_a_dict_of_the_fields_that_are_there():
    register_dataclasses(Scored(torch.ones(1)))
    found = through_text([Scored(torch.ones(1))])
    assert found == [{"scores": torch.ones(1)}]


@pytest.mark.parametrize(
    "nesting",
    [
        1,  # the first leaf is 0
        {"tuple": [1, 0]},
        {"list": [0, 0]},
        {"dict": [["a", 0], ["a", 1]]},
        {"dict": [[[1], 0]]},
        {"set": [0]},
        {},
        None,
        "0",
    ],
)
def test_what_is_no_nesting_is_refused(nesting):
    with pytest.raises(ValueError, match="arguments or results"):
        spec_of(nesting)


@pytest.mark.parametrize("name", ["__import__('os')", "a b", "class", "_x", "a=1"])
def test_names_of_fields_are_names(name):
    with pytest.raises(ValueError, match="names"):
        spec_of({"named": [[name], [0]]})
