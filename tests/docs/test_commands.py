"""The commands of the pages can be typed as they stand there."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from gunicorn.config import Config

from backend.__main__ import _parser
from backend.run.everything import _examples

from .pages import PAGES, ROOT, blocks, inline_code, name_of

BACKEND = "http://127.0.0.1:5000"
README = ROOT / "README.md"
SHELL = {"console", "bash", "sh"}


def commands(page: Path) -> Iterator[str]:
    """Every line a reader may type, and every piece of code in the text, prompts and comments taken off."""
    for block in blocks(page):
        if block.language in SHELL:
            yield from (line.removeprefix("$ ").partition(" #")[0] for line in block.code.splitlines())
    yield from inline_code(page)


def arguments_of(page: Path, program: str) -> list[list[str]]:
    """What stands behind a program wherever it is called."""
    calls = (
        re.search(rf"(?:^|[\s(/]){re.escape(program)}((?: [^;|)]*)?)(?:$|[;|)])", each)
        for each in commands(page)
    )
    return [shlex.split(call[1]) for call in calls if call is not None]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make(page: Path) -> None:
    """Every target that is named is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = {word for words in arguments_of(page, "make") for word in words if re.fullmatch(r"[a-z]+", word)}

    assert used - targets == set()


def test_every_target_is_described() -> None:
    """The page for developers has all targets of the Makefile."""
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)

    assert {f"make {each}" for each in targets} <= set(inline_code(ROOT / "docs" / "development.md"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules(page: Path) -> None:
    """Every module behind `python -m` can be run; `python -m backend` takes the options given to it."""
    for module, *arguments in filter(None, arguments_of(page, "python -m")):
        assert importlib.util.find_spec(module) is not None, module
        if module == "backend":
            _parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_gunicorn(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn knows the options that are given to it, and the settings of the configuration file."""
    monkeypatch.chdir(tmp_path)  # it may make folders
    for arguments in arguments_of(page, "gunicorn"):
        Config().parser().parse_args(arguments)
    for block in blocks(page):
        if block.code.startswith("# gunicorn.conf.py\n"):
            values: dict[str, Any] = {}
            exec(block.code, values)
            for name, value in values.items():
                imported = getattr(value, "__module__", "builtins") != "builtins"
                if not name.startswith("__") and (name in Config().settings or not imported):
                    Config().set(name, value)


def test_run_proposes_what_the_tour_types() -> None:
    """The lines that `make run` prints are those of the README."""
    typed = set(commands(README))

    assert [each for each in _examples(BACKEND, {}) if each not in typed] == []


def test_curl(client: FlaskClient) -> None:
    """Every curl line of the README is answered, one after the other."""
    lines = [each for each in commands(README) if each.startswith("curl ") and "…" not in each]
    assert len(lines) > 8
    for line in lines:
        options = _curl().parse_args(shlex.split(line.partition(" | ")[0])[1:])
        response = client.open(
            options.url.removeprefix(BACKEND),
            method="GET" if options.data is None else "POST",
            data=options.data,
            headers=[tuple(header.split(": ", 1)) for header in options.header],
        )
        assert response.status_code == 200, f"{line}\n{response.text}"


def _curl() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="curl", exit_on_error=False)
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-H", dest="header", action="append", default=[])
    parser.add_argument("-d", dest="data")
    parser.add_argument("url")
    return parser
