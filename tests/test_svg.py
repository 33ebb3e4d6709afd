"""The picture: well formed, complete, nothing on top of something else."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from couplings import INPUT_CHANNELS, OUTPUT
from inspections import alone, inspected, lenet_inspection, residual_inspection
from torch import nn

from vibfx.svg import to_svg

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(inspection):
    root = ET.fromstring(to_svg(inspection))
    assert root.tag == f"{SPACE}svg"
    return root


def found(root, tag):
    return list(root.iter(f"{SPACE}{tag}"))


def words(root):
    return [text.text for text in found(root, "text")]


def test_every_group_and_layer_is_named_and_the_shares_are_written():
    inspection = residual_inspection()
    texts = words(parsed(inspection))
    for layer in inspection.layers:
        assert texts.count(layer) == 1 + (layer in {g.name for g in inspection.groups})
    for group in inspection.groups:
        assert f"{100 * group.params:.1f} %" in texts
    assert "Net" in texts


def test_lines_run_to_makers_and_readers():
    inspection = residual_inspection()
    lines = found(parsed(inspection), "path")
    widths = [line.get("stroke-width") for line in lines]
    assert widths.count("2.4") == sum(len(group.makes) for group in inspection.groups) == 3
    assert widths.count("1.2") == sum(len(group.reads) for group in inspection.groups) == 3


def test_bars_are_as_long_as_the_shares():
    inspection = lenet_inspection()
    widths = [float(r.get("width")) for r in found(parsed(inspection), "rect") if r.get("rx")]
    shares = [share for group in inspection.groups for share in (group.params, group.flops)]
    longest = max(shares)
    assert widths == pytest.approx([150 * share / longest for share in shares], abs=0.1)


def test_what_stays_is_said_at_its_layer():
    texts = words(parsed(residual_inspection()))
    assert f"inputs stay: {INPUT_CHANNELS}" in texts
    assert f"outputs stay: {OUTPUT}" in texts
    tied = words(parsed(residual_inspection(both=True)))
    assert any(text.endswith("(with last, stem)") for text in tied)


def test_long_reasons_are_cut_and_told_in_full_on_hover():
    root = parsed(inspected(alone(), 1, 8, 8))
    (cut,) = [text for text in found(root, "text") if (text.text or "").endswith("…")]
    assert cut.find(f"{SPACE}title").text.startswith(cut.text.rstrip("…"))
    assert len(cut.text) <= 110


def test_everything_lies_inside():
    root = parsed(lenet_inspection())
    width, height = float(root.get("width")), float(root.get("height"))
    assert root.get("viewBox") == f"0 0 {width:.0f} {height:.0f}"
    for text in found(root, "text"):
        assert 0 < float(text.get("x")) < width
        assert 0 < float(text.get("y")) < height


def test_groups_do_not_lie_on_top_of_each_other():
    layers = [m for _ in range(5) for m in (nn.Linear(4, 4), nn.ReLU())]
    root = parsed(inspected(nn.Sequential(*layers, nn.Linear(4, 2)), 4))
    ends = {re.match(r"M[\d.]+,([\d.]+)", line.get("d"))[1] for line in found(root, "path")}
    heights = sorted(map(float, ends))
    assert len(heights) == 5
    assert min(b - a for a, b in pairwise(heights)) >= 26


def test_an_empty_network_is_a_picture_too():
    root = parsed(inspected(nn.ReLU(), 4))
    assert not found(root, "path")
    assert not found(root, "circle")
