"""The Graphviz text: balanced, complete, and what joins what."""

import re

from couplings import INPUT_CHANNELS, OUTPUT
from inspections import alone, inspected, residual_inspection
from torch import nn

from vibfx.dot import to_dot

QUOTED = r'"((?:[^"\\]|\\.)*)"'
NODE = re.compile(rf"^  {QUOTED} \[label={QUOTED}, [^\[\]]*\];$")
EDGE = re.compile(rf"^  {QUOTED} -> {QUOTED}(?: \[[^\[\]]*\])?;$")


def parsed(text):
    """Labels of nodes by name, and edges; every line between the settings and the end is one."""
    lines = text.splitlines()
    assert lines[0] == "digraph coupling {"
    assert lines[-1] == "}"
    nodes, edges = {}, []
    for line in lines[5:-1]:
        if edge := EDGE.match(line):
            edges.append(edge.groups())
        else:
            name, label = NODE.match(line).groups()
            assert name not in nodes
            nodes[name] = label
    assert {end for edge in edges for end in edge} <= set(nodes)
    return nodes, edges


def test_groups_stand_between_the_layers_they_join():
    nodes, edges = parsed(to_dot(residual_inspection()))
    assert set(nodes) == {
        *("layer stem", "layer wide", "layer last", "layer head"),
        *("group stem", "group wide", "stays 0", "stays 1"),
    }
    assert set(edges) == {
        ("layer stem", "group stem"),
        ("layer last", "group stem"),
        ("group stem", "layer wide"),
        ("group stem", "layer head"),
        ("layer wide", "group wide"),
        ("group wide", "layer last"),
        ("layer stem", "stays 0"),
        ("layer head", "stays 1"),
    }
    assert nodes["group wide"].startswith(r"wide\n6 units\n")
    assert nodes["stays 0"].startswith(f"stays: {INPUT_CHANNELS}")
    assert nodes["stays 1"] == rf"stays: {OUTPUT}\noutput"


def test_what_stays_is_grey_and_what_goes_is_not():
    for line in to_dot(residual_inspection()).splitlines():
        if line.startswith('  "stays'):
            assert 'fillcolor="#e2e8f0"' in line
        elif line.startswith('  "group') and "label" in line:
            assert 'fillcolor="#bee3f8"' in line


def test_nothing_removable_is_a_graph_of_layers_and_reasons():
    nodes, edges = parsed(to_dot(inspected(alone(), 1, 8, 8)))
    assert set(nodes) == {"layer 1", "stays 0", "stays 1"}
    assert len(edges) == 2


def test_an_empty_network_is_an_empty_graph():
    assert parsed(to_dot(inspected(nn.ReLU(), 4))) == ({}, [])
