"""Inspections against numbers worked out by hand, and against what is really cut."""

import json

import pytest
import torch
from inspections import alone, inspected, lenet_inspection, residual_inspection
from networks import gated, lenet, traced
from torch import nn

import vibfx
from vibfx.inspection import Dimension

LENET_PARAMS = 520 + 25_050 + 400_500 + 5_010
LENET_FLOPS = 288_000 + 1_600_000 + 400_000 + 5_000


def groups(inspection):
    return {group.name: group for group in inspection.groups}


# --- totals


def test_totals():
    totals = lenet_inspection().totals
    assert (totals.parameters, totals.flops) == (LENET_PARAMS, LENET_FLOPS)
    assert (totals.groups, totals.units) == (3, 20 + 50 + 500)
    # The biases of the last layer belong to the output.
    assert totals.removable_params == pytest.approx(1 - 10 / LENET_PARAMS, abs=1e-12)
    assert totals.removable_flops == pytest.approx(1.0, abs=1e-12)


def test_the_removable_share_is_the_couplings():
    graph = traced(lenet(), (1, 28, 28))
    coupling = vibfx.analyze(graph)
    totals = vibfx.inspect(graph, coupling).totals
    assert totals.removable_params == pytest.approx(coupling.removable_share(graph), abs=1e-12)


# --- groups


@pytest.mark.parametrize(
    ("name", "units", "params", "flops"),
    [
        ("0", 20, 520 + 25_000, 288_000 + 1_600_000),
        ("2", 50, 25_050 + 400_000, 1_600_000 + 400_000),
        ("5", 500, 400_500 + 5_000, 400_000 + 5_000),
    ],
)
def test_a_group_governs_what_makes_and_what_reads_its_channels(name, units, params, flops):
    group = groups(lenet_inspection())[name]
    assert group.units == units
    assert group.params == pytest.approx(params / LENET_PARAMS, abs=1e-12)
    assert group.flops == pytest.approx(flops / LENET_FLOPS, abs=1e-12)


def test_a_flattened_channel_is_many_indices():
    group = groups(lenet_inspection())["2"]
    assert group.dimensions == (
        Dimension("2.weight", 0, 50),
        Dimension("2.bias", 0, 50),
        Dimension("5.weight", 1, 800),
    )


def test_neighbours_overlap():
    overlaps = {name: group.overlaps for name, group in groups(lenet_inspection()).items()}
    assert overlaps == {"0": ("2",), "2": ("0", "5"), "5": ("2",)}
    assert sum(group.params for group in lenet_inspection().groups) > 1.0


def test_layers_of_a_residual_sum():
    found = groups(residual_inspection())
    assert list(found) == ["stem", "wide"]
    stream, inner = found.values()
    assert (stream.makes, stream.reads, stream.carries) == (
        ("stem", "last"),
        ("wide", "head"),
        ("norm",),
    )
    assert (inner.makes, inner.reads, inner.carries) == (("wide",), ("last",), ())
    # stem and its norm, what wide and head read, what last makes: weights, then biases.
    total = (108 + 4) + 8 + (24 + 6) + (24 + 4) + (8 + 2)
    assert stream.params == pytest.approx((112 + 8 + 24 + 28 + 8) / total, abs=1e-12)
    assert inner.params == pytest.approx((24 + 6 + 24) / total, abs=1e-12)
    assert len(stream.sites) == 2
    assert any("in last (" in site for site in stream.sites)


def test_a_depthwise_layer_makes_and_reads():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    (group,) = inspected(model, 3, 5, 5).groups
    assert (group.makes, group.reads) == (("0", "1"), ("1", "3"))
    assert group.joined == ("0", "1", "3")


def test_a_gated_graph_has_the_groups_of_the_plain_one():
    graph = gated(traced(lenet(), (1, 28, 28)))
    found = vibfx.inspect(graph, vibfx.analyze(graph))
    plain = lenet_inspection()
    assert [(g.name, g.params, g.flops, g.dimensions) for g in found.groups] == [
        (g.name, g.params, g.flops, g.dimensions) for g in plain.groups
    ]
    assert found.totals.parameters == LENET_PARAMS
    assert not [row for row in found.frozen if row.parameter.startswith("gates")]


# --- layers and what has none


def test_layers_stand_in_the_order_of_the_graph():
    assert residual_inspection().layers == ("stem", "wide", "last", "head")


def test_a_network_of_which_nothing_can_be_removed():
    found = inspected(alone(), 1, 8, 8)
    assert found.groups == ()
    assert (found.totals.removable_params, found.totals.removable_flops) == (0.0, 0.0)
    assert {row.parameter for row in found.frozen} == {"1.weight", "1.bias"}


def test_a_network_without_parameters_has_no_shares_to_divide():
    found = inspected(nn.ReLU(), 4)
    assert (found.groups, found.layers, found.frozen, found.causes) == ((), (), (), ())
    assert (found.totals.parameters, found.totals.removable_params) == (0, 0.0)


# --- JSON


def test_json_has_these_keys_in_this_order():
    found = residual_inspection(both=True).to_dict()
    assert list(found) == ["model", "totals", "groups", "layers", "frozen"]
    assert list(found["totals"]) == [
        "parameters",
        "flops",
        "removable_params",
        "removable_flops",
        "groups",
        "units",
    ]
    assert list(found["groups"][0]) == [
        "name",
        "units",
        "sites",
        "makes",
        "reads",
        "carries",
        "dimensions",
        "params",
        "flops",
        "overlaps",
    ]
    assert list(found["frozen"][0]) == [
        "parameter",
        "layer",
        "dim",
        "count",
        "size",
        "side",
        "reason",
        "where",
        "through",
    ]
    assert found["model"] == "Net"
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))


def test_inspecting_changes_nothing():
    graph = traced(lenet(), (1, 28, 28))
    before = vibfx.format_graph(graph), {n: p.clone() for n, p in graph.named_parameters()}
    vibfx.inspect(graph, vibfx.analyze(graph))
    assert vibfx.format_graph(graph) == before[0]
    assert all(torch.equal(p, before[1][n]) for n, p in graph.named_parameters())
