"""Who may import whom, and what gets loaded: the contracts of pyproject.toml and a few that it cannot say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "service_utils"
TIMELESS = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "clock.py"})
CONTRACTS = [
    contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
]


@pytest.fixture(scope="module")
def report() -> str:
    """The words of import-linter about this checkout, from a process of its own: it rearranges logging."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = _python("-c", code, "--no-cache", "--no-logo", COLUMNS="200", NO_COLOR="1")
    return done.stdout + done.stderr


@pytest.mark.parametrize("contract", CONTRACTS)
def test_contract_holds(contract: str, report: str) -> None:
    """Every import contract that pyproject.toml declares is kept."""
    assert f"\n{contract} KEPT" in report, report


def test_importing_the_package_loads_nothing_but_requests_and_the_standard_library() -> None:
    """`import service_utils` costs what `import requests` costs, plus the package itself."""
    plain, ours = _loaded("requests, urllib3"), _loaded("service_utils")
    extra = {module.partition(".")[0] for module in ours - plain} - sys.stdlib_module_names

    assert extra == {"service_utils"}


def test_importing_the_package_does_not_load_asyncio() -> None:
    """A program without coroutines does not pay for them."""
    assert "asyncio" not in _loaded("service_utils")


def test_only_integrations_and_test_tools_need_more_than_requests() -> None:
    """Outside of integrations no import, however late, asks for another distribution than the core's two."""
    graph = grimp.build_graph(
        "service_utils", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    core = {name for name in graph.modules if name.startswith("service_utils")} - _below(
        graph, "integrations"
    )
    allowed = sys.stdlib_module_names | {"requests", "urllib3", "service_utils"}
    foreign = {
        (module, imported)
        for module in core - _below(graph, "testing")
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] not in allowed
    }
    tools = {
        imported.partition(".")[0]
        for module in _below(graph, "testing")
        for imported in graph.find_modules_directly_imported_by(module)
    }

    assert foreign == set()
    assert tools <= allowed | {"pytest"}


@pytest.mark.parametrize("path", TIMELESS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_clock_asks_for_the_time(path: Path) -> None:
    """Whatever waits or measures does so through a clock that a test can stop."""
    assert list(_times_asked(ast.parse(path.read_text("utf-8")))) == []


def test_the_clock_does_ask_for_the_time() -> None:
    """The check above sees what it looks for."""
    found = list(_times_asked(ast.parse((PACKAGE / "clock.py").read_text("utf-8"))))

    assert any("import time" in each for each in found)
    assert any("datetime.now" in each for each in found)


@pytest.mark.parametrize("package", ["service_utils", "backend"])
def test_package_says_that_it_is_typed(package: str) -> None:
    """Type checkers of users read our annotations."""
    assert (ROOT / package / "py.typed").is_file()


def _times_asked(tree: ast.AST) -> Iterator[str]:
    """Imports of `time` and uses of the time of day, each with its line."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [f"import {alias.name}" for alias in node.names if alias.name == "time"]
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            names = ["import time"]
        elif isinstance(node, ast.Attribute):
            called = ast.unparse(node)
            names = [called] if called.endswith(("datetime.now", "datetime.utcnow", "date.today")) else []
        yield from (f"line {getattr(node, 'lineno', 0)}: {name}" for name in names)


def _below(graph: grimp.ImportGraph, child: str) -> set[str]:
    """The module `service_utils.<child>` and all inside it, as far as they exist."""
    name = f"service_utils.{child}"
    return {name, *graph.find_descendants(name)} if name in graph.modules else set()


def _loaded(imports: str) -> set[str]:
    """The modules a fresh interpreter has after `import <imports>`."""
    done = _python("-c", f"import sys, {imports}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
