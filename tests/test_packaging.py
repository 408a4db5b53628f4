"""What users install: the metadata of setup.cfg, and the wheel made from it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("service_utils", "backend")
RUNTIME_EXTRAS = {"flask", "jwt", "prometheus", "opentelemetry", "redis", "celery", "cli", "backend"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    """The metadata as they are written, comments left out."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of this checkout, built in a copy of it so that nothing is left behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            *_offline(),
            f"--wheel-dir={target}",
            str(source),
        ],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def test_name_and_python(setup_cfg: configparser.ConfigParser) -> None:
    """The distribution is called service-utils and asks for Python 3.11 or later."""
    assert setup_cfg["metadata"]["name"] == "service-utils"
    assert setup_cfg["options"]["python_requires"] == ">=3.11"


def test_the_core_needs_only_requests_and_urllib3(setup_cfg: configparser.ConfigParser) -> None:
    """Who wants the client alone installs nothing else."""
    assert set(map(_project, _lines(setup_cfg["options"]["install_requires"]))) == {"requests", "urllib3"}
    assert "urllib3>=2.6,<3" in _lines(setup_cfg["options"]["install_requires"])


def test_all_extras_are_there(setup_cfg: configparser.ConfigParser) -> None:
    """Every extra that the documentation names can be installed."""
    assert set(setup_cfg["options.extras_require"]) == RUNTIME_EXTRAS | {"all", "test", "dev"}


def test_all_is_every_runtime_extra(setup_cfg: configparser.ConfigParser) -> None:
    """`all` brings exactly what the runtime extras bring, in the same versions."""
    extras = setup_cfg["options.extras_require"]
    union = {requirement for extra in RUNTIME_EXTRAS for requirement in _lines(extras[extra])}

    assert set(_lines(extras["all"])) == union


def test_pyproject_has_no_metadata() -> None:
    """There is one place for metadata, and it is setup.cfg."""
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))) == {"build-system", "tool"}


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_says_that_it_is_typed(package: str, wheel: zipfile.ZipFile) -> None:
    """Type checkers of users find the marker next to the code."""
    assert f"{package}/py.typed" in wheel.namelist()


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_every_file_of_the_packages(package: str, wheel: zipfile.ZipFile) -> None:
    """No module is lost for want of an `__init__.py`, no template, script or query for want of a pattern."""
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }

    assert there - set(wheel.namelist()) == set()


def test_wheel_holds_nothing_but_the_packages(wheel: zipfile.ZipFile) -> None:
    """Tests, benchmarks and papers stay out of users' site-packages."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    """Whoever gets the wheel gets the licence with it."""
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def _offline() -> list[str]:
    """How to build with the setuptools that is here, if it is one that can; else pip fetches another."""
    try:
        installed = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        return []
    return ["--no-build-isolation"] if tuple(map(int, installed.split(".")[:2])) >= (70, 1) else []


def _lines(text: str) -> list[str]:
    """The requirements of one entry."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _project(requirement: str) -> str:
    """The name in front of extras and versions."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
