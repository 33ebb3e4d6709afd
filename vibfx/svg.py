"""The coupling as a picture: groups, what they govern, and the layers they run through."""

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from vibfx.frozen import FrozenDimension
from vibfx.inspection import GroupSummary, Inspection

_ROW = 26
_PORT = 5  # a layer reads above its middle and makes below it
_TOP = 112
_MARGIN = 28
_BAR = 150
_FIGURES = (60, 120, 180)  # where the figures behind the bars end: units, parameters, FLOPs
_CURVES = 180
_CHARACTER = 6.7  # width of one, at the size that names are written in
_REASON = 110

_INK, _GREY, _PARAMS, _FLOPS = "#1a202c", "#8a94a6", "#2b6cb0", "#ed8936"
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#b83280", "#6b46c1", "#00838f", "#b7791f", "#9b2c2c")
_SIDES = {"makes": "outputs", "reads": "inputs", "carries": "channels"}

_STYLE = f"""<style>
  text {{ font-family: Helvetica, Arial, sans-serif; font-size: 12px; fill: {_INK}; }}
  .name {{ font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 11px; }}
  .title {{ font-size: 17px; font-weight: bold; }}
  .grey {{ fill: {_GREY}; font-size: 11px; }}
</style>"""


def to_svg(inspection: Inspection) -> str:
    """Draw a coupling as a picture of its own, which needs no other program.

    Groups stand on the left, each with a bar for the share of parameters and one for the share of
    FLOPs that it governs. Layers stand on the right. A line runs from the output of each layer
    that makes a group's channels (thick) and to the input of each that reads them (thin). Inputs
    and outputs that stay are grey, with the reason.

    Args:
        inspection: What ``inspect`` found.

    Returns:
        An SVG document.
    """
    picture = _Picture(inspection)
    body = "\n".join(picture.parts())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{picture.width:.0f}" '
        f'height="{picture.height:.0f}" viewBox="0 0 {picture.width:.0f} {picture.height:.0f}">\n'
        f'{_STYLE}\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


class _Picture:
    """Where everything goes."""

    def __init__(self, inspection: Inspection) -> None:
        self._all = inspection
        self._stays = _by_layer(inspection.frozen)
        self._layer_y = {name: _TOP + _ROW * (i + 0.5) for i, name in enumerate(inspection.layers)}
        self._group_y = _spread(
            [_mean(self._layer_y[n] for n in group.joined) for group in inspection.groups]
        )
        names = max(_widest(group.name for group in inspection.groups), 40.0)
        self._bars_x = _MARGIN + names + 12
        self._figures_x = self._bars_x + _BAR
        self._port_x = self._figures_x + _FIGURES[-1] + 14
        self._layers_x = self._port_x + _CURVES
        self._reason_x = self._layers_x + 16 + _widest(inspection.layers) + 12
        reasons = [min(len("; ".join(stays)), _REASON) for stays in self._stays.values()]
        self.width = self._reason_x + max(reasons, default=0) * 5.9 + _MARGIN
        self.height = max((_TOP, *self._layer_y.values(), *self._group_y)) + _ROW + _MARGIN

    def parts(self) -> Iterator[str]:
        """The picture's elements, what lies below first."""
        yield from self._header()
        groups = self._all.groups
        colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(groups))]
        for group, y, colour in zip(groups, self._group_y, colours, strict=True):
            yield from self._curves(group, y, colour)
        ports = self._port_colours(colours)
        for name, y in self._layer_y.items():
            yield from self._layer(name, y, ports)
        most = max((max(group.params, group.flops) for group in groups), default=0.0) or 1.0
        for group, y, colour in zip(groups, self._group_y, colours, strict=True):
            yield from self._group(group, y, colour, _BAR / most)

    def _header(self) -> Iterator[str]:
        totals = self._all.totals
        yield _text(_MARGIN, 38, self._all.model, "title")
        yield _text(
            _MARGIN,
            58,
            f"{totals.parameters:,} parameters, {totals.flops:,.0f} FLOPs; "
            f"{100 * totals.removable_params:.2f} % of the parameters lie in removable units "
            f"({totals.units:,}, groups: {totals.groups:,})",
        )
        y = _TOP - 14
        yield from self._legend(self._bars_x, y, _PARAMS, "parameters")
        yield from self._legend(self._bars_x + 86, y, _FLOPS, "FLOPs")
        for end, words in zip(_FIGURES, ("units", "params", "FLOPs"), strict=True):
            yield _text(self._figures_x + end, y, words, "grey", anchor="end")
        middle = (self._port_x + self._layers_x) / 2
        yield _text(middle, y, "thick: makes, thin: reads", "grey", anchor="middle")
        yield _text(_MARGIN, y, "group", "grey")
        yield _text(self._layers_x + 16, y, "layer", "grey")
        if self._stays:
            yield _text(self._reason_x, y, "what stays", "grey")

    def _legend(self, x: float, y: float, colour: str, words: str) -> Iterator[str]:
        yield f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="9" height="9" fill="{colour}"/>'
        yield _text(x + 14, y, words, "grey")

    def _curves(self, group: GroupSummary, y: float, colour: str) -> Iterator[str]:
        sides = [(n, _PORT, 2.4, 0.9) for n in group.makes]
        sides += [(n, -_PORT, 1.2, 0.7) for n in group.reads]
        sides = sides or [(n, 0, 1.2, 0.7) for n in group.joined]
        middle = (self._port_x + self._layers_x) / 2
        for name, offset, width, opacity in sides:
            end = self._layer_y[name] + offset
            yield (
                f'<path d="M{self._port_x:.1f},{y:.1f} C{middle:.1f},{y:.1f} '
                f'{middle:.1f},{end:.1f} {self._layers_x:.1f},{end:.1f}" fill="none" '
                f'stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}"/>'
            )

    def _port_colours(self, colours: list[str]) -> dict[tuple[str, int], str]:
        """For each side of a layer the colour of the group that runs through it."""
        found: dict[tuple[str, int], str] = {}
        for group, colour in zip(self._all.groups, colours, strict=True):
            found.update({(name, _PORT): colour for name in group.makes})
            found.update({(name, -_PORT): colour for name in group.reads})
        return found

    def _layer(self, name: str, y: float, ports: dict[tuple[str, int], str]) -> Iterator[str]:
        for offset in (-_PORT, _PORT):
            colour = ports.get((name, offset), "#cbd5e0")
            yield (
                f'<circle cx="{self._layers_x:.1f}" cy="{y + offset:.1f}" r="3.2" fill="{colour}"/>'
            )
        yield _text(self._layers_x + 16, y + 4, name, "name")
        stays = self._stays.get(name, ())
        if stays:
            whole = "; ".join(stays)
            short = whole if len(whole) <= _REASON else whole[: _REASON - 1].rstrip() + "…"
            yield _text(self._reason_x, y + 4, short, "grey", title=whole)

    def _group(self, group: GroupSummary, y: float, colour: str, scale: float) -> Iterator[str]:
        x = self._bars_x
        yield _text(_MARGIN, y + 4, group.name, "name", title=_described(group))
        for top, height, share, fill in (
            (-7, 8, group.params, _PARAMS),
            (2, 5, group.flops, _FLOPS),
        ):
            width = max(share * scale, 0.5)
            yield (
                f'<rect x="{x:.1f}" y="{y + top:.1f}" width="{width:.1f}" height="{height}" '
                f'rx="1" fill="{fill}"/>'
            )
        figures = (f"{group.units:,}", _percent(group.params), _percent(group.flops))
        for end, words in zip(_FIGURES, figures, strict=True):
            yield _text(self._figures_x + end, y + 4, words, "grey", anchor="end")
        yield f'<circle cx="{self._port_x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'


def _by_layer(frozen: tuple[FrozenDimension, ...]) -> dict[str, list[str]]:
    """What stays of each layer, in words; a bias says nothing that its weight does not."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for row in frozen:
        count = "" if row.count == row.size else f"{row.count:,} of {row.size:,} "
        tied = f" (with {', '.join(row.through)})" if row.through else ""
        entry = f"{count}{_SIDES[row.side]} stay: {row.reason}{tied}"
        known = found.setdefault(row.layer, {})
        if row.side != "carries" or not any(reason == row.reason for _, reason in known):
            known[row.side, row.reason] = entry
    return {layer: sorted(entries.values()) for layer, entries in found.items()}


def _described(group: GroupSummary) -> str:
    return (
        f"{group.units:,} units; made by {', '.join(group.makes) or '-'}; "
        f"read by {', '.join(group.reads) or '-'}; carried by {', '.join(group.carries) or '-'}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _spread(wanted: list[float]) -> list[float]:
    """As close to where each wants to be as a row's distance between them allows."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = dict.fromkeys(order, 0.0)
    lowest = _TOP + _ROW / 2
    for index in order:
        placed[index] = max(wanted[index], lowest)
        lowest = placed[index] + _ROW
    return [placed[index] for index in range(len(wanted))]


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _widest(names: Iterator[str] | tuple[str, ...]) -> float:
    return max((len(name) for name in names), default=0) * _CHARACTER


def _text(
    x: float, y: float, words: str, kind: str = "", *, anchor: str = "start", title: str = ""
) -> str:
    hover = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class={quoteattr(kind)} text-anchor="{anchor}">'
        f"{escape(words)}{hover}</text>"
    )
