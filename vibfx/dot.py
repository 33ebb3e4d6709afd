"""The coupling as a Graphviz graph: layers, and between them the groups that join them."""

from vibfx.frozen import Cause
from vibfx.inspection import GroupSummary, Inspection

_HEADER = """digraph coupling {
  rankdir=LR;
  graph [fontname="Helvetica"];
  node [fontname="Helvetica", fontsize=11];
  edge [arrowsize=0.7];
"""
_LAYER = 'shape=box, style="rounded,filled", fillcolor=white, color="#4a5568"'
_GROUP = 'shape=ellipse, style=filled, fillcolor="#bee3f8", color="#2b6cb0"'
_FROZEN = 'shape=note, style=filled, fillcolor="#e2e8f0", color="#a0aec0", fontcolor="#4a5568"'
_FROZEN_EDGE = 'color="#a0aec0", style=dashed, arrowhead=none'


def to_dot(inspection: Inspection) -> str:
    """Draw a coupling as text for Graphviz.

    Layers are boxes. A group is an ellipse between the layers that make its channels and the ones
    that read them; norms, which only carry channels, are left out. What stays is grey, with the
    reason.

    Args:
        inspection: What ``inspect`` found.

    Returns:
        A directed graph in the DOT language.
    """
    lines = [
        f"  {_quoted(f'layer {n}')} [label={_quoted(n)}, {_LAYER}];" for n in inspection.layers
    ]
    for group in inspection.groups:
        lines.extend(_group(group))
    for number, cause in enumerate(inspection.causes):
        lines.extend(_cause(number, cause, set(inspection.layers)))
    return _HEADER + "".join(f"{line}\n" for line in lines) + "}\n"


def _group(group: GroupSummary) -> list[str]:
    own = _quoted(f"group {group.name}")
    label = (
        f"{group.name}\n{group.units:,} units\n"
        f"{100 * group.params:.1f} % params, {100 * group.flops:.1f} % FLOPs"
    )
    known = {*group.makes, *group.reads}
    return [
        f"  {own} [label={_quoted(label)}, {_GROUP}];",
        *(f"  {_quoted(f'layer {layer}')} -> {own};" for layer in group.makes),
        *(f"  {own} -> {_quoted(f'layer {layer}')};" for layer in group.reads),
        *(
            f"  {_quoted(f'layer {layer}')} -> {own} [arrowhead=none];"
            for layer in group.joined
            if layer not in known
        ),
    ]


def _cause(number: int, cause: Cause, drawn: set[str]) -> list[str]:
    own = _quoted(f"stays {number}")
    label = "\n".join(filter(None, (f"stays: {cause.reason}", cause.where)))
    layers = dict.fromkeys(row.layer for row in cause.rows if row.layer in drawn)
    return [
        f"  {own} [label={_quoted(label)}, {_FROZEN}];",
        *(f"  {_quoted(f'layer {layer}')} -> {own} [{_FROZEN_EDGE}];" for layer in layers),
    ]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
