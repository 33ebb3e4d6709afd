"""The report: a head of sums, a table a family, and what did not work in its own words."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from zoo.progress import Record
from zoo.summary import exact, other_seconds, own_seconds, ratio, summarize, traced

COLUMNS = (
    *("Model", "Traced", "Removable %", "Units", "Error", "Control", "ONNX"),
    *("Trace s", "Analysis s", "Rewrite s", "TP built", "TP runs", "TP equal", "TP s", "Ratio"),
)
NONE = "-"
LEGEND = """\
Each model runs in a process of its own, Torch-Pruning in another one, random weights, nothing
downloaded. **Removable**: the share of parameters that lie in a unit that can go. **Error**: the
largest difference between the gated graph with a random half of every group's units shut and the
graph without them, float64, divided by how much the output changes between inputs; biases, norms
and zero weights are drawn at random and batch norms fitted to the masked network first. *calmed*: a
network so deep that it made more than 1e-9 of rounding with those weights, the weights of its batch
norms divided by four.
**Control**: what had to be opened again for the comparison to fail; `1` is a single unit, `1 (n)` a
single unit at the n-th try, `all` one of every group at once. **ONNX**: every eighth model, the
difference between ONNX Runtime and the folded graph, over the largest output. **Rewrite**: plan and
cut, of the traced graph, a random half of all units.
**TP**: Torch-Pruning, half of every group by magnitude, the layers that make the output left
alone, the numbers of heads told it where the attention says them, otherwise as it comes.
**TP equal**: the pruned network computes what the original one does with zeros wherever a layer
read a removed channel; what norms over fewer channels computes something else. **TP s**: build and
prune.
**Ratio**: analysis and rewrite over TP s."""


def report(records: Sequence[Record], facts: Mapping[str, str], picture: str = "zoo.svg") -> str:
    """The whole Markdown document.

    Args:
        records: Results, in the order of the list.
        facts: Date, machine, versions, command.
        picture: Where the picture is, seen from the document.
    """
    parts = [
        "# The zoo",
        "\n".join(f"- {line}" for line in summarize(records)),
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        f"![Removable share and speed of every model]({picture})",
        LEGEND,
    ]
    for family, rows in groupby(records, key=lambda r: str(r["family"])):
        parts.append(f"## {family}\n\n{table(list(rows))}")
    parts.append(f"## What did not work\n\n{failures(records)}")
    return "\n\n".join(parts) + "\n"


def table(records: Sequence[Record]) -> str:
    """One Markdown table."""
    lines = [line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(line(cells(record)) for record in records)])


def line(values: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def cells(record: Record) -> tuple[str, ...]:
    """What stands in the row of one model."""
    tp = record.get("tp", {})
    rate = ratio(record)
    name = str(record["name"]).partition("/")[2]
    note = f" ({record['note']})" if record.get("note") else ""
    return (
        name + note,
        yes(traced(record)),
        number(record.get("removable"), 100, 1),
        number(record.get("units"), 1, 0),
        error(record),
        control(record),
        onnx(record.get("onnx")),
        number(record.get("trace_s")),
        number(record.get("analyze_s")),
        number(own_seconds(record) - record["analyze_s"]) if "prune_s" in record else NONE,
        *(yes(bool(tp.get(key))) for key in ("built", "runs")),
        NONE if tp.get("status") == "nothing pruned" else yes(bool(tp.get("equal"))),
        number(other_seconds(record)) if "prune_s" in tp else NONE,
        number(rate),
    )


def error(record: Record) -> str:
    """The relative error, or the kind of failure."""
    if "error" in record:
        return f"{record['error']:.0e}" + (" calmed" if record.get("calmed") else "")
    return kind(str(record.get("status", "no result")))


def kind(status: str) -> str:
    """The type of an exception, or which limit was hit."""
    return status.partition(":")[0].partition(" of ")[0]


def control(record: Record) -> str:
    """What the negative control needed."""
    found = str(record.get("control", record.get("stopped", NONE)))
    if found.startswith("one unit"):
        return "1" + (f" ({found.rpartition(' ')[2]})" if "try" in found else "")
    return "all" if found == "a unit of every group" else kind(found)


def onnx(found: object) -> str:
    """The difference, or the kind of failure."""
    if found is None:
        return NONE
    return f"{found:.0e}" if isinstance(found, float) else kind(str(found))


def number(value: object, scale: float = 1, digits: int = 2) -> str:
    """A rounded number, or a dash for what is not known."""
    return f"{scale * value:,.{digits}f}" if isinstance(value, (int, float)) else NONE


def yes(value: bool) -> str:
    """A word for a cell."""
    return "yes" if value else "no"


def failures(records: Sequence[Record]) -> str:
    """Every message: ours, ONNX's and Torch-Pruning's, one line each."""
    lines: list[str] = []
    for record in records:
        tp = record.get("tp", {})
        found = {
            "": "" if exact(record) else record.get("stopped") or record.get("status"),
            "control: ": record.get("control") if record.get("control") == "not seen" else "",
            "ONNX: ": record.get("onnx") if isinstance(record.get("onnx"), str) else "",
            "Torch-Pruning: ": tp.get("stopped")
            or (tp.get("status") if tp.get("status") != "runs" else ""),
        }
        said = [f"{who}{code(str(what))}" for who, what in found.items() if what]
        said = [s for s in said if s != "`exact`"]
        if said:
            lines.append(f"- {record['name']}: " + "; ".join(said))
    return "\n".join(lines) or "Nothing."


def code(text: str) -> str:
    """A message as it is, safe within Markdown."""
    return "`" + text.replace("`", "'") + "`"
