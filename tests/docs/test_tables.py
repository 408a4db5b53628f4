"""The tables of the pages say what the code says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import service_utils
from backend.config import SERVICES
from service_utils import BreakerConfig, ResilientServiceClient, RetryPolicy

from .pages import PAGES, ROOT, code_in, inline_code, name_of, table_rows

README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
PRODUCTION = ROOT / "PRODUCTION_DEPLOYMENT.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

_PATH = re.compile(r"(service_utils|backend|tests|docs)/[\w/.-]+")


def defaults_in(page: Path, heading: str) -> dict[str, Any]:
    """Names and defaults in the table of three columns below a heading."""
    return {
        code_in(row[0]): eval(code_in(row[1]), dict(vars(service_utils)))
        if row[1]
        else inspect.Parameter.empty
        for row in table_rows(page, heading)
        if len(row) == 3
    }


def test_parameters_of_the_client() -> None:
    """README's table has the parameters of the client, in their order, with their defaults."""
    parameters = inspect.signature(ResilientServiceClient).parameters
    said = defaults_in(README, "The client")

    assert list(said.items()) == [(name, each.default) for name, each in parameters.items()]


def test_arguments_of_a_call() -> None:
    """README's other table has the arguments of a call that `requests` does not have, and `timeout`."""
    said = {name for row in table_rows(README, "The client") if len(row) == 2 for name in _codes(row[0])}
    keyword_only = {
        name
        for name, each in inspect.signature(ResilientServiceClient.request).parameters.items()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    }

    assert said == keyword_only


def _codes(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


@pytest.mark.parametrize("kind", [RetryPolicy, BreakerConfig])
def test_fields_of_policies(kind: type[Any]) -> None:
    """The tables of the policies have their fields, in their order, with their defaults."""
    fields = [each for each in dataclasses.fields(kind) if each.init]

    assert list(defaults_in(CONFIGURATION, kind.__name__).items()) == [
        (each.name, each.default) for each in fields
    ]


def test_limits_of_the_services() -> None:
    """The table of time-outs for operators has the numbers the backend uses."""
    said = {
        row[0]: [float(cell.removesuffix(" s")) for cell in row[1:]]
        for row in table_rows(PRODUCTION, "Time-outs and how they nest")
    }

    assert said == {
        each.title.removesuffix(" Server"): [
            each.timeout,
            each.max_retries,
            each.deadline,
            each.failure_threshold,
            each.recovery_timeout,
        ]
        for each in SERVICES
    }


def steps() -> Iterator[tuple[str, str]]:
    """Function and file of each step in the way of one call."""
    for function, place, _ in table_rows(ARCHITECTURE, "The way of one call"):
        yield code_in(function), code_in(place)


def test_the_way_of_a_call_has_steps() -> None:
    """The table has been read."""
    assert len(list(steps())) > 10


@pytest.mark.parametrize(("function", "place"), list(steps()))
def test_steps_of_a_call(function: str, place: str) -> None:
    """Each function that a call meets, as the page says, is defined in the file that it names."""
    tree = ast.parse((ROOT / place).read_text("utf-8"))

    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files(page: Path) -> None:
    """Every file and folder of the code that a page names is there."""
    named = {code for code in inline_code(page) if _PATH.fullmatch(code)}

    assert {each for each in named if not (ROOT / each).exists()} == set()
