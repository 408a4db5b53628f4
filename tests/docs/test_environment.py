"""The papers about the environment say what the code reads, all of it and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import clients
from backend.app import create_app
from backend.config import _READERS, LLM_SERVERS, SERVICES, LLMServer, ServiceDefaults, Settings
from service_utils.config import PROFILES

from .pages import ROOT, code_in, table_rows

PAGE = ROOT / "ENVIRONMENT_VARIABLES.md"
EXAMPLE = ROOT / ".env.example"
SOURCES = [path for package in ("service_utils", "backend") for path in (ROOT / package).rglob("*.py")]
PREFIXES = {each.prefix for each in (*SERVICES, *LLM_SERVERS)}

# Texts in capitals that name no setting: of Flask, WSGI, sockets, an enum, and what the demo hands on unread.
OTHERS = {
    "LC_ALL",
    "MAX_CONTENT_LENGTH",
    "PER_CLIENT",
    "PROPAGATE_EXCEPTIONS",
    "REMOTE_ADDR",
    "SO_REUSEPORT",
}

_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_LINE = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def read_by_the_code() -> set[str]:
    """Every text of the code that looks like a variable, and those made of prefix and setting."""
    whole: set[str] = set()
    settings: set[str] = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        # In config.py the first argument of these is put behind a service's prefix.
        after_prefix = {
            id(call.args[0])
            for call in ast.walk(tree)
            if path.name == "config.py"
            and isinstance(call, ast.Call)
            and ast.unparse(call.func) in ("env.text", "env.number", "env.count", "env.named", "env.slots")
        }
        for node in _texts(tree):
            if id(node) in after_prefix:
                settings.add(node.value)
            elif _VARIABLE.fullmatch(node.value):
                whole.add(node.value)
        whole |= _asked_of_the_environment(tree)
    assert "TIMEOUT" in settings
    return (whole - OTHERS - PREFIXES) | {
        f"{prefix}_{setting}" for prefix in PREFIXES for setting in settings
    }


def _texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """All texts but the names in `__all__`."""
    for statement in tree.body:
        if not (isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"):
            for node in ast.walk(statement):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node


def _asked_of_the_environment(tree: ast.AST) -> set[str]:
    """Names without an underscore are known by whom they are given to, as in `environ.get("HOME")`."""
    asked = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            whom, what = ast.unparse(node.func), node.args[0]
        elif isinstance(node, ast.Subscript):
            whom, what = ast.unparse(node.value) + "[]", node.slice
        else:
            continue
        named = isinstance(what, ast.Constant) and isinstance(what.value, str)
        if named and re.search(r"(\bgetenv|environ(\.get|\.pop|\.setdefault|\[\]))$", whom):
            asked.add(what.value)
    return {name for name in asked if name.isupper()}


def documented() -> dict[str, str]:
    """The default of each variable by its name, as the page has them."""
    rows = [row for row in table_rows(PAGE) if re.fullmatch(r"`[A-Z][A-Z0-9_]*`", row[0])]
    names = [code_in(row[0]) for row in rows]
    assert len(names) == len(set(names)), "a variable is there twice"
    return {name: code_in(row[1]) for name, row in zip(names, rows, strict=True)}


def in_the_example() -> dict[str, str]:
    """The value of each variable by its name, as the example file has them."""
    found = _LINE.findall(EXAMPLE.read_text("utf-8"))
    assert len(found) == len(dict(found)), "a variable is there twice"
    return dict(found)


def test_the_page_has_every_variable_and_no_other() -> None:
    """What ENVIRONMENT_VARIABLES.md lists is what the code reads."""
    assert set(documented()) == read_by_the_code()


def test_the_example_has_every_variable_and_no_other() -> None:
    """What .env.example lists is what the code reads."""
    assert set(in_the_example()) == read_by_the_code()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_defaults_of_services(service: ServiceDefaults) -> None:
    """The defaults on the page are those the backend's clients are built with."""
    page, declared = documented(), dataclasses.asdict(service)
    settings = ("timeout", "max_retries", "deadline", "failure_threshold", "recovery_timeout")

    assert page[f"{declared['prefix']}_SERVER_URL"] == f"http://127.0.0.1:{declared['port']}"
    assert {name: float(page[f"{declared['prefix']}_{name.upper()}"]) for name in settings} == {
        name: declared[name] for name in settings
    }


@pytest.mark.parametrize("llm", LLM_SERVERS, ids=lambda llm: llm.prefix)
def test_defaults_of_llm_servers(llm: LLMServer) -> None:
    """The defaults on the page are those the clients of LLM servers are built with."""
    page = documented()
    said = [page[f"{llm.prefix}_{setting}"] for setting in ("TIMEOUT", "MAX_RETRIES", "DEADLINE")]

    assert list(map(float, said)) == [clients._LLM_TIMEOUT, clients._LLM_ATTEMPTS, clients._LLM_DEADLINE]


def test_defaults_of_the_backend() -> None:
    """The defaults on the page are those of the backend's settings."""
    page, settings = documented(), Settings()
    said = {variable: page[variable] for variable, _ in _READERS.values()}
    real = {variable: getattr(settings, name) for name, (variable, _) in _READERS.items()}

    assert said == {name: _in_words(value) for name, value in real.items()}


def _in_words(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_profiles() -> None:
    """The table of profiles has the profiles' numbers."""
    rows = {row[0]: row[1:] for row in table_rows(PAGE, "Profiles")}
    numbers = {
        what: [float(cell.removesuffix(" s")) for cell in cells]
        for what, cells in rows.items()
        if re.fullmatch(r"[0-9.]+( s)?", cells[0])
    }

    assert list(numbers.values()) == [
        [getattr(profile, name) for profile in PROFILES.values()]
        for name in ("timeout", "max_retries", "retry_base_delay", "failure_threshold", "recovery_timeout")
    ]


def test_the_example_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every line of .env.example switched on, a shell reads it and the backend starts."""
    switched_on = tmp_path / "env"
    switched_on.write_text(_LINE.sub(r"\1=\2", EXAMPLE.read_text("utf-8")), "utf-8")
    script = "set -a; . ./env; exec env -0"
    done = subprocess.run(
        ["sh", "-euc", script], cwd=tmp_path, env={}, capture_output=True, timeout=10, check=True
    )
    values = dict(each.split("=", 1) for each in done.stdout.decode().split("\0") if each)
    assert {name: values.get(name) for name in in_the_example()} == in_the_example()

    for name in in_the_example():
        monkeypatch.setenv(name, values[name])
    app = create_app({"VAR_DIR": tmp_path / "var"})
    built = app.extensions["backend"].clients
    assert [each.client.base_url for each in built.llms] == [
        values["LLM_SERVER_URL"],
        values["LLM_FALLBACK_URL"],
    ]
    built.registry.close()
