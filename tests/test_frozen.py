"""Why something stays: the cause, where it lies, and by which layers it gets there."""

import torch
from couplings import INPUT_CHANNELS, OUTPUT, Net
from inspections import inspected, residual_inspection
from torch import nn


def rows(inspection):
    return {(row.parameter, row.dim): row for row in inspection.frozen}


def test_only_the_ends_of_a_network_stay():
    found = rows(residual_inspection())
    assert set(found) == {("stem.weight", 1), ("head.weight", 0), ("head.bias", 0)}
    assert str(found["head.weight", 0]) == f"head.weight dim 0 (2 of 2) stays: {OUTPUT}, at output"
    first = found["stem.weight", 1]
    assert (first.reason, first.through, first.side) == (INPUT_CHANNELS, (), "reads")
    assert first.where.startswith("conv2d in stem (inspections.py:")


def test_what_a_sum_ties_to_an_output_stays_with_the_layers_that_make_it():
    found = rows(residual_inspection(both=True))
    assert found["last.weight", 0].through == found["stem.weight", 0].through == ()
    for tied in (("wide.weight", 1), ("norm.weight", 0), ("norm.bias", 0), ("head.weight", 1)):
        assert found[tied].reason == OUTPUT
        assert set(found[tied].through) == {"last", "stem"}
    assert str(found["wide.weight", 1]) == (
        f"wide.weight dim 1 (4 of 4) stays with last, stem: {OUTPUT}, at output"
    )
    # The other output has another width.
    assert found["head.weight", 0].through == ()
    assert ("wide.weight", 0) not in found


def test_the_sides():
    found = rows(residual_inspection(both=True))
    sides = {place: row.side for place, row in found.items()}
    assert sides["last.weight", 0] == "makes"
    assert sides["wide.weight", 1] == "reads"
    assert sides["norm.weight", 0] == sides["last.bias", 0] == "carries"
    assert found["last.bias", 0].layer == "last"


def test_an_op_without_a_rule_is_named_with_its_place():
    model = Net(
        lambda net, x: net.head(torch.cummax(torch.relu(net.a(x)), 1)[0]),
        a=nn.Linear(4, 6),
        head=nn.Linear(6, 2),
    )
    found = rows(inspected(model, 4))["a.weight", 0]
    assert (found.count, found.size, found.through) == (6, 6, ())
    assert "aten.cummax.default" in found.reason
    assert found.where.startswith("cummax (")


def test_a_cause_at_the_layer_itself_is_right_there():
    """Where the node of the cause reads the parameters, no layer in front of it is to blame."""
    first = inspected(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), 3, 5, 5)
    assert all(row.through == () for row in first.frozen)


def test_causes_gather_rows_and_put_what_lies_there_first():
    causes = {cause.reason: cause for cause in residual_inspection(both=True).causes}
    assert set(causes) == {OUTPUT, INPUT_CHANNELS}
    tied = [bool(row.through) for row in causes[OUTPUT].rows]
    assert tied == sorted(tied)
    assert True in tied
    assert False in tied
    assert sum(len(c.rows) for c in causes.values()) == len(residual_inspection(both=True).frozen)


def test_a_reason_without_a_place_has_no_layers():
    """Put twice in one order and twice in another, each channel meets the next."""

    def forward(net, x):
        y = net.a(x)
        y = torch.cat([y, y], 1)
        return net.h(y + y.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6))

    found = rows(inspected(Net(forward, a=nn.Linear(4, 3), h=nn.Linear(6, 2)), 4))
    together = found["a.weight", 0]
    assert "hang together" in together.reason
    assert (together.where, together.through) == ("", ())
    assert str(together).endswith(together.reason)


def test_what_norms_keep_in_buffers_is_left_out():
    assert not [r for r in residual_inspection(both=True).frozen if "running" in r.parameter]
