"""Which operators a graph from a file may call."""

import operator
import sys

import pytest
import torch

from vibfx.errors import ModelFileError
from vibfx.graph import PYTHON_TARGETS
from vibfx.model_files.operators import name_of, operator_named
from vibfx.model_files.trust import Trust
from vibfx.rules import RULES

aten = torch.ops.aten
NOBODY = Trust()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aten.conv2d.default", aten.conv2d.default),
        ("torch.ops.aten.relu.default", aten.relu.default),  # as torch.export writes it
        ("aten.relu_.default", aten.relu_.default),  # writes to its operand what relu returns
        ("_operator.getitem", operator.getitem),
        ("torch.sym_max", torch.sym_max),
        ("aten.fft_rfft2.default", aten.fft_rfft2.default),
        ("aten.masked_fill.Scalar", aten.masked_fill.Scalar),
        (
            "torch.ops.higher_order.wrap_with_autocast",
            torch.ops.higher_order.wrap_with_autocast,
        ),
    ],
)
def test_what_networks_are_made_of_is_found(name, expected):
    assert operator_named(name, NOBODY) is expected


def test_all_that_may_stand_in_a_graph_and_has_a_rule_comes_back_by_its_name():
    targets = {*PYTHON_TARGETS, *(t for t in RULES if not isinstance(t, type))}
    assert len(targets) > 200
    for target in targets:
        assert operator_named(name_of(target), NOBODY) is target


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",  # opens, and even creates, a file
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "aten._sparse_coo_tensor_unsafe.default",  # trusts the indices it is given
        "aten._nested_view_from_buffer.default",
        "aten.relu.out",
        "os.system.default",
        "inductor._reinterpret_tensor.default",
    ],
)
def test_what_is_not_known_to_be_harmless_needs_trust(name):
    with pytest.raises(ModelFileError, match="not known to be harmless") as refused:
        operator_named(name, NOBODY)
    assert "--trust" in refused.value.hint


@pytest.mark.parametrize(
    "name",
    [
        *("", "relu", "aten.relu", "a.b.c.d", "aten.re lu.x"),
        *("aten.relu.nosuch", "aten.nosuch.default", "aten.__class__.default"),
        *("aten.relu.__call__", "builtins.eval", "_operator.methodcaller"),
    ],
)
def test_what_is_no_op_is_unknown(name):
    with pytest.raises(ModelFileError, match="no op of torch"):
        operator_named(name, NOBODY)


def test_an_op_of_another_library_is_looked_up_after_its_package_is_trusted(tmp_path, monkeypatch):
    source = "import torch\ntorch.library.define('vibfxlib::twice', '(Tensor x) -> Tensor')\n"
    (tmp_path / "vibfxlib.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelFileError, match="not known to be harmless") as refused:
        operator_named("vibfxlib.twice.default", NOBODY)
    assert "vibfxlib" not in sys.modules
    assert "--trust vibfxlib" in refused.value.hint
    found = operator_named("vibfxlib.twice.default", Trust(("vibfxlib",)))
    assert str(found) == "vibfxlib.twice.default"


def test_one_op_can_be_trusted_by_itself():
    trust = Trust(("aten.from_file",))
    assert operator_named("aten.from_file.default", trust) is aten.from_file.default
    with pytest.raises(ModelFileError, match="not known to be harmless"):
        operator_named("aten.set_.source_Tensor", trust)


def test_a_library_that_cannot_be_imported_is_named():
    with pytest.raises(ModelFileError, match="nosuchlib cannot be imported"):
        operator_named("nosuchlib.op.default", Trust(("nosuchlib",)))
