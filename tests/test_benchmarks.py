"""The benchmarks run, show what they found and write it into the page. How much it is, is not for tests."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from benchmarks import instructions, page, venvs
from benchmarks.__main__ import PAGE, SCRIPTS
from benchmarks.charts import svg
from benchmarks.common import Bar, Chart, Report, Table, Target, as_text, ratio, rounds_of
from benchmarks.driving import Contender, Failed, Worker
from benchmarks.machine import ENVIRONMENT_SIZE, ROOT, environment
from benchmarks.servers import Served, Servers

QUICK = ("--quick", "--no-peers", "--no-instructions", "--rounds", "1")
UNMEASURED = {
    "instructions per GET, likewise",
    "system calls of calls through a closed circuit",
    "times less CPU than pybreaker + tenacity + requests",
}
HAS_COMPILER = shutil.which("cc") or shutil.which("gcc")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A Python program of the repository, run to its end."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )


def chart(*bars: Bar, line: float | None = None) -> dict[str, Any]:
    """A chart as it is in a script's results."""
    report = Report("memory", "Memory", charts=[Chart("memory", 'Less & "less"', "KiB <cold>", bars, line)])
    return dict(report.as_dict()["charts"][0])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_measures(name: str, tmp_path: Path) -> None:
    """Every script ends well, prints its tables, and writes the same as JSON."""
    if not (ROOT / f"benchmarks/{name}.py").exists():
        pytest.skip("is not written yet")
    results = tmp_path / "results.json"

    done = run(f"benchmarks/{name}.py", *QUICK, "--json", str(results))

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text("utf-8"))
    assert found["name"] == name
    assert found["tables"]
    for table in found["tables"]:
        assert table["title"] in done.stdout
        assert table["rows"]
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
            assert row[0] in done.stdout
    # Without peers and valgrind two targets have no figure; everything else has.
    assert {each["measure"] for each in found["targets"] if each["value"] is None} <= UNMEASURED
    assert found["machine"]["Python"]
    for each in found["charts"]:
        ET.fromstring(svg(each))


def test_a_script_does_without_a_compiler(tmp_path: Path) -> None:
    """The server in Python takes the place of the one in C."""
    results = tmp_path / "results.json"

    done = run("benchmarks/bursts.py", *QUICK, "--python-server", "--json", str(results))

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(results.read_text("utf-8"))["settings"]["server"] == "Python"


def test_some_scripts_alone_leave_the_page_as_it_is() -> None:
    """Figures of a part of the benchmarks do not mix with those of an earlier run."""
    before = PAGE.read_text("utf-8")

    done = run("-m", "benchmarks", *QUICK, "--only", "memory")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Memory of one client" in done.stdout
    assert PAGE.read_text("utf-8") == before


def test_a_script_that_does_not_exist_is_named() -> None:
    """A wrong name ends the run before it begins."""
    done = run("-m", "benchmarks", "--only", "memory,speed")

    assert done.returncode == 2
    assert "there is no script speed" in done.stderr


@pytest.mark.parametrize(
    "python",
    [
        pytest.param(False, marks=pytest.mark.skipif(not HAS_COMPILER, reason="needs a C compiler"), id="C"),
        pytest.param(True, id="Python"),
    ],
)
class TestServer:
    """The two servers do the same."""

    @pytest.fixture
    def server(self, python: bool) -> Any:
        with Servers(python=python) as servers:
            yield servers.plain()

    def ask(self, server: Served, *paths: str, close: bool = False) -> list[tuple[Any, ...]]:
        """Status, length, chunked or not, and the path of the answer; all over one connection."""
        found = []
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
        for path in paths:
            connection.request("POST", path, b'{"a": 1}', {"Connection": "close"} if close else {})
            response = connection.getresponse()
            body = response.read()
            coding = response.getheader("Transfer-Encoding")
            found.append((response.status, len(body), coding, json.loads(body)["path"], response.will_close))
        connection.close()
        return found

    def test_every_answer_is_about_its_request(self, server: Served) -> None:
        """Bodies have 200 bytes and hold the path that was asked for."""
        assert self.ask(server, "/a/1", "/chunked/b") == [
            (200, 200, None, "/a/1", False),
            (200, 200, "chunked", "/chunked/b", False),
        ]

    def test_connections_and_requests_are_counted(self, server: Served) -> None:
        """A connection counts once, however many requests it brings."""
        connections, requests = server.counts()
        self.ask(server, "/", "/", "/")
        self.ask(server, "/")

        assert server.counts() == (connections + 2, requests + 4)

    def test_a_connection_is_closed_on_demand(self, server: Served) -> None:
        """Who asks for the end of the connection gets it."""
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
        connection.request("GET", "/", headers={"Connection": "close"})
        response = connection.getresponse()
        sock = connection.sock
        response.read()

        assert sock is not None
        assert sock.recv(1) == b""
        connection.close()

    def test_it_ends_with_the_one_who_started_it(self, server: Served) -> None:
        """Without anybody at its standard input the server is gone."""
        server.end()

        with pytest.raises(ConnectionError):
            self.ask(server, "/")


def test_contenders_see_an_environment_of_35_variables() -> None:
    """As many as the table in the page says, whatever the machine has."""
    assert len(environment()) == len(environment(PYTHONHASHSEED="1")) == ENVIRONMENT_SIZE == 35


def test_a_contender_that_cannot_run_says_why() -> None:
    """A library that is missing is a word in the notes, not the end of the run."""
    with pytest.raises(Failed, match=r"nobody: ModuleNotFoundError"):
        Worker(Contender("nobody", "benchmarks.nowhere"))


@pytest.mark.skipif(not instructions.available(), reason="needs valgrind")
def test_instructions_are_counted() -> None:
    """A request costs some; what starting a process costs is not among them."""
    notes: list[str] = []
    with Servers() as servers:
        those = [Contender("raw socket", "benchmarks.contenders", (servers.plain().url, ""))]
        found = instructions.count_all(those, "get", notes.append)

    assert notes == []
    assert 1_000 < found["raw socket"] < 1_000_000


def test_a_peer_that_cannot_be_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured without it."""
    monkeypatch.setattr(venvs, "families", lambda: {"broken": [str(tmp_path / "no-such.whl")]})
    notes: list[str] = []

    assert venvs.python_of("broken", tmp_path / "venvs", notes.append) is None
    assert len(notes) == 1
    assert notes[0].startswith("broken: could not be installed")


def test_contenders_take_turns() -> None:
    """Each round has everybody once; every other one runs backwards, so that nobody always comes first."""
    order: list[str] = []
    turns = {name: (lambda name=name: order.append(name) or float(len(order))) for name in "abc"}

    assert rounds_of(2, turns) == {"a": [1.0, 6.0], "b": [2.0, 5.0], "c": [3.0, 4.0]}
    assert "".join(order) == "abccba"


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    """One slow moment of the machine does not count."""
    assert ratio([1, 2, 90], [2, 4, 6]) == 0.5


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"),
    [
        (0.2, False, "aim reached"),
        (0.3, False, "reached, aim missed"),
        (0.5, False, "missed"),
        (None, False, "not measured"),
        (0.4, True, "aim reached"),
        (0.3, True, "reached, aim missed"),
        (0.1, True, "missed"),
    ],
)
def test_targets_have_a_verdict(value: float | None, at_least: bool, verdict: str) -> None:
    """A value is held against what it must be and what was aimed at."""
    must, aim = (0.2, 0.4) if at_least else (0.4, 0.2)

    assert Target("CPU", value, must, aim, at_least).verdict() == verdict


def test_tables_are_aligned() -> None:
    """Figures have three digits, big ones separators, missing ones words."""
    table = Table("CPU", ("who", "share"), [("we", 0.12345), ("they", 12345.6), ("nobody", None)])

    assert as_text(table).splitlines() == [
        "who            share",
        "--------------------",
        "we             0.123",
        "they          12,346",
        "nobody  not measured",
    ]


def test_charts_are_well_formed() -> None:
    """Any label can stand in a picture, and the bars are as long as their values say."""
    drawn = ET.fromstring(svg(chart(Bar("we <fast>", 1.0, ours=True), Bar("they & co", 4.0), line=1.0)))

    bars = [each for each in drawn.findall(".//{*}rect") if each.get("class") in ("bar", "ours")]
    ours, theirs = (float(bar.get("width", 0)) for bar in bars)
    assert theirs == pytest.approx(4 * ours, rel=0.01)
    assert "we <fast>" in [each.text for each in drawn.findall(".//{*}text")]


def test_charts_of_nothing_but_zeros_can_be_drawn() -> None:
    """No wrong answers at all are good news, not a division by zero."""
    ET.fromstring(svg(chart(Bar("we", 0.0), Bar("they", 0.0))))


def test_the_page_has_its_markers() -> None:
    """A run finds where to write its figures."""
    text = PAGE.read_text("utf-8")

    assert text.count(page.BEGIN) == text.count(page.END) == 1
    assert text.index(page.BEGIN) < text.index(page.END)


def test_writing_the_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    """Only what stands between the markers is replaced; pictures go beside the page."""
    there = tmp_path / "performance.md"
    there.write_text(f"# Before\n\n{page.BEGIN}\nold figures\n{page.END}\n\nAfter\n", "utf-8")
    report = Report("memory", "Memory", settings={"clients": 2}, versions={"requests": "2.32"})
    report.tables.append(Table("KiB of one client", ("client", "cold"), [("we|they", 1.5)]))
    report.charts.append(Chart("memory", "KiB", "KiB", [Bar("we", 1.5)]))
    report.targets.append(Target("cold client", 1.5, 24, 12))
    report.notes.append("One was left out.")

    page.write(there, "make bench", [report.as_dict()], {"forks": "it ended with status 1"})
    text = there.read_text("utf-8")

    assert text.startswith(f"# Before\n\n{page.BEGIN}\n")
    assert text.endswith(f"\n{page.END}\n\nAfter\n")
    assert "old figures" not in text
    for line in (
        "| command | `make bench` |",
        "| cold client | 1.500 | ≤ 24 | ≤ 12 | aim reached |",
        "| we\\|they | 1.500 |",
        "![KiB](img/memory.svg)",
        "- One was left out.",
        "- `benchmarks/forks.py`: it ended with status 1",
    ):
        assert f"\n{line}\n" in text
    ET.parse(tmp_path / "img" / "memory.svg")


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written into a page that is another one."""
    there = tmp_path / "page.md"
    there.write_text("# Something else\n", "utf-8")

    with pytest.raises(ValueError, match="no markers"):
        page.write(there, "make bench", [], {})
    assert there.read_text("utf-8") == "# Something else\n"
