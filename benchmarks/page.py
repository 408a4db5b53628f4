"""The page with the figures: what stands between two markers of docs/performance.md is written by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import svg
from benchmarks.common import figure

__all__ = ["BEGIN", "END", "write"]

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end: written by make bench -->"

Found = Mapping[str, Any]  # a script's results, as they are in its JSON


def write(page: Path, command: str, reports: Sequence[Found], missing: Mapping[str, str]) -> None:
    """Put the figures into the page, and its pictures into `img` beside it.

    Args:
        page: The page; what is outside of the markers stays as it is.
        command: What was typed to make the figures.
        reports: The scripts' results.
        missing: Scripts without results, and why.

    Raises:
        ValueError: The page has no markers.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: has no markers to write between")
    pictures = page.parent / "img"
    pictures.mkdir(exist_ok=True)
    for report in reports:
        for chart in report["charts"]:
            (pictures / f"{chart['name']}.svg").write_text(svg(chart), "utf-8")
    parts = [_machine(command, reports), _targets(reports), *map(_section, reports), *_absent(missing)]
    text = "\n\n".join(filter(None, parts))
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def _machine(command: str, reports: Sequence[Found]) -> str:
    """On what, with what and how it was measured."""
    if not reports:
        return ""
    versions: dict[str, str] = {}
    for report in reports:
        versions |= report["versions"]
    facts = {
        "command": f"`{command}`",
        **reports[0]["machine"],
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }
    return "### The machine\n\n" + _table(("what", "here"), list(facts.items()))


def _targets(reports: Sequence[Found]) -> str:
    """All targets of all scripts, in one table."""
    rows = [
        (each["measure"], each["value"], _limit(each, "must"), _limit(each, "aim"), each["verdict"])
        for report in reports
        for each in report["targets"]
    ]
    columns = ("measure", "measured", "must", "aim", "verdict")
    return "### The targets\n\n" + _table(columns, rows) if rows else ""


def _limit(target: Found, which: str) -> str:
    return f"{'≥' if target['at_least'] else '≤'} {target[which]:g}"


def _section(report: Found) -> str:
    """All that a script found out."""
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    parts = [f"### {report['title']}", f"`{report['command']}`" + (f": {settings}." if settings else "")]
    parts += [f"![{chart['title']}](img/{chart['name']}.svg)" for chart in report["charts"]]
    for table in report["tables"]:
        parts += [f"**{table['title']}**", _table(table["columns"], table["rows"])]
    if report["notes"]:
        parts.append("\n".join(f"- {note}" for note in report["notes"]))
    return "\n\n".join(parts)


def _absent(missing: Mapping[str, str]) -> list[str]:
    return ["\n".join(f"- `benchmarks/{name}.py`: {why}" for name, why in missing.items())] if missing else []


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)] if len(columns) > 2 else ["---"] * len(columns)]
    lines += [[figure(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
