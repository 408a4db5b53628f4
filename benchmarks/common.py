"""What all scripts share: their options, how ratios are taken, and how results are written down.

Absolute times jump from one run to the next on a shared machine, ratios taken side by side do not: contenders
take turns, each turn is compared with another contender's of the same round, and the median of that counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import ROOT, describe

__all__ = ["Bar", "Chart", "Options", "Report", "Table", "Target", "options", "ratio", "rounds_of"]

Cell = str | float | int | None
Name = TypeVar("Name")


@dataclass(frozen=True)
class Options:
    """How thoroughly a script measures.

    Attributes:
        quick: Rough figures within seconds.
        rounds: How often all contenders take their turn; None for the script's own number.
        peers: Whether libraries outside of our own environment take part.
        instructions: Whether instructions are counted, where valgrind is there.
        python_server: Whether the server is the one in Python also where there is a compiler.
        venvs: The folder with the peers' environments.
        json: Where the results are written, besides the tables on the screen.
    """

    quick: bool
    rounds: int | None
    peers: bool
    instructions: bool
    python_server: bool
    venvs: Path
    json: Path | None

    def pick(self, quick: int, full: int) -> int:
        """One of two numbers."""
        return quick if self.quick else full

    def rounds_or(self, quick: int, full: int) -> int:
        """The rounds that were asked for, or else one of these two."""
        return self.rounds or self.pick(quick, full)


@dataclass(frozen=True)
class Table:
    """Rows of figures. A float is shown in three digits, None as "not measured"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    ours: bool = False


@dataclass(frozen=True)
class Chart:
    """Bars, drawn to the file ``<name>.svg``; the line marks what is compared with."""

    name: str
    title: str
    unit: str
    bars: Sequence[Bar]
    line: float | None = None


@dataclass(frozen=True)
class Target:
    """What was promised of a measure: it must not be above (or, "at least", below) these."""

    measure: str
    value: float | None
    must: float
    aim: float
    at_least: bool = False

    def verdict(self) -> str:
        """How the value stands to what was promised."""
        if self.value is None:
            return "not measured"
        sign = -1 if self.at_least else 1
        if sign * self.value <= sign * self.aim:
            return "aim reached"
        return "reached, aim missed" if sign * self.value <= sign * self.must else "missed"


@dataclass
class Report:
    """What a script found out.

    Attributes:
        name: Of the script.
        title: In words.
        settings: How it was measured, such as the number of rounds.
        versions: Of what took part.
        notes: What a reader has to know beside the figures, such as who could not take part.
    """

    name: str
    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        found = asdict(self)
        found["machine"] = describe()
        found["command"] = " ".join(["python", f"benchmarks/{self.name}.py", *_told(sys.argv[1:])])
        for each, target in zip(found["targets"], self.targets, strict=True):
            each["verdict"] = target.verdict()
        return found

    def publish(self, options: Options) -> None:
        """Print all tables, and write the JSON where the options want it."""
        print(f"\n{self.title}\n{'=' * len(self.title)}")
        for about in (self.settings, self.versions):
            if about:
                print(", ".join(f"{name} {value}" for name, value in about.items()))
        for table in self.tables:
            print(f"\n{table.title}\n{as_text(table)}")
        if self.targets:
            print(f"\nTargets\n{as_text(targets_table(self.targets))}")
        for note in self.notes:
            print(f"- {note}")
        sys.stdout.flush()
        if options.json is not None:
            options.json.write_text(json.dumps(self.as_dict(), indent=1), "utf-8")


def options(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    """The options that every script takes."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    found = parser.parse_args(arguments)
    return Options(
        quick=found.quick,
        rounds=found.rounds,
        peers=not found.no_peers,
        instructions=not found.no_instructions,
        python_server=found.python_server,
        venvs=found.venvs.resolve(),
        json=found.json,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """What all scripts and the runner understand."""
    parser.add_argument("--quick", action="store_true", help="rough figures, within seconds")
    parser.add_argument("--rounds", type=_count, help="turns that every contender takes")
    parser.add_argument("--no-peers", action="store_true", help="leave out what pip would have to install")
    parser.add_argument("--no-instructions", action="store_true", help="do not count instructions")
    parser.add_argument("--python-server", action="store_true", help="use the server in Python, not in C")
    parser.add_argument(
        "--venvs",
        type=Path,
        default=ROOT / ".bench-venvs",
        metavar="FOLDER",
        help="where the environments of the peers are (default: .bench-venvs)",
    )


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is no number of rounds")
    return number


def _told(arguments: Sequence[str]) -> list[str]:
    """The arguments without the file of the results, which is nobody's business."""
    kept = list(arguments)
    if "--json" in kept:
        where = kept.index("--json")
        del kept[where : where + 2]
    return kept


def rounds_of(count: int, turns: Mapping[Name, Callable[[], float]]) -> dict[Name, list[float]]:
    """Let all take turns, `count` times; every other round runs backwards."""
    found: dict[Name, list[float]] = {name: [] for name in turns}
    for number in range(count):
        for name in list(turns) if number % 2 == 0 else reversed(list(turns)):
            found[name].append(turns[name]())
    return found


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of how these compare with those, round by round."""
    return statistics.median(this / that for this, that in zip(these, those, strict=True))


def figure(cell: Cell) -> str:
    """A cell as it is shown."""
    if cell is None:
        return "not measured"
    if isinstance(cell, float):
        if cell >= 100:
            return f"{cell:,.0f}"
        return f"{cell:.2f}" if cell >= 10 else f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def targets_table(targets: Sequence[Target]) -> Table:
    """The targets as a table."""
    return Table(
        "Targets",
        ("measure", "measured", "must", "aim", "verdict"),
        [
            (each.measure, each.value, *(_limit(each, of) for of in (each.must, each.aim)), each.verdict())
            for each in targets
        ],
    )


def _limit(target: Target, limit: float) -> str:
    return f"{'at least' if target.at_least else 'at most'} {limit:g}"


def as_text(table: Table) -> str:
    """The table for a screen."""
    rows = [list(table.columns), *([figure(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
