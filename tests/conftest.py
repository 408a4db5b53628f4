"""What all tests share: an environment without settings, and how long Hypothesis may think."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

import service_utils

pytest_plugins = ["service_utils.testing.fixtures"]

# Settings of the packages, and what requests reads by itself (certificates, proxies).
_PREFIXES = (
    "API_",
    "AUTH_",
    "BACKEND_",
    "BILLING_",
    "CHAT_",
    "CHROMA_",
    "CIRCUIT_BREAKER_",
    "FILESYSTEM_",
    "GIT_",
    "INTERNAL_",
    "LLM_",
    "SERVICE_UTILS_",
)
_SUFFIXES = ("_SERVER_URL", "_PROXY")
_NAMES = (
    "ADMIN_TOKEN",
    "BACKGROUND_WORK",
    "CURL_CA_BUNDLE",
    "DOCUMENTS_MAX_REQUESTS",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "MAX_BODY_BYTES",
    "PROJECTS_DIR",
    "PROMETHEUS_MULTIPROC_DIR",
    "REQUESTS_CA_BUNDLE",
    "REQUEST_DEADLINE",
    "SSL_CERT_FILE",
    "VAR_DIR",
)

# What is run here is counted for coverage elsewhere, or is no part of it; counting takes two thirds longer.
_UNCOUNTED = (
    "backend",
    "chaos",
    "docs",
    "policies/test_breaker_model.py",
    "policies/test_store_interleavings.py",
    "test_benchmarks.py",
    "torture",
    "transport/test_forks.py",
    "transport/test_fuzz_cuts.py",
    "transport/test_fuzz_responses.py",
    "transport/test_fuzz_tls.py",
    "transport/test_gevent.py",
    "transport/test_malformed_heads.py",
    "transport/test_response_attributes.py",
    "transport/test_threads.py",
    "transport/test_wire_bytes.py",
    "workers",
)

# How long one example takes says nothing on a busy machine. A build prints how to replay a failed one.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Count what importing the package runs, but not the tests that are made: that takes as long again."""
    plugin = session.config.pluginmanager.get_plugin("_cov")
    counting = None if plugin is None else plugin.cov_controller
    if counting is None:
        return (yield)
    for module in pkgutil.walk_packages(service_utils.__path__, "service_utils."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an extra that is not there
                importlib.import_module(module.name)
    counting.pause()
    try:
        return (yield)
    finally:
        counting.resume()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests out of the count that add nothing to it but time."""
    uncounted = [Path(__file__).parent / each for each in _UNCOUNTED]
    for item in items:
        if any(item.path.is_relative_to(each) for each in uncounted):
            item.add_marker("no_cover")


@pytest.fixture(scope="module", autouse=True)
def short_pauses() -> None:
    """Spare the garbage collector what is there already: thousands of tests, which live to the end.

    Walking through them takes up to half a second, in which no thread of the process runs: longer than many a
    test gives a server to answer.
    """
    gc.collect()
    gc.freeze()


def _is_setting(name: str) -> bool:
    name = name.upper()
    return name.startswith(_PREFIXES) or name.endswith(_SUFFIXES) or name in _NAMES


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings() -> Iterator[None]:
    """Whatever the machine has set, neither tests nor servers that live for a whole module see it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_is_setting, tuple(os.environ)):
            patch.delenv(name)
        patch.setenv("BACKGROUND_WORK", "false")  # apps of tests are many and short-lived
        yield


@pytest.fixture(autouse=True)
def environment_as_it_was(environment_without_settings: None) -> Iterator[None]:
    """What a test or the code under it leaves in the environment is gone before the next one."""
    before = dict(os.environ)
    yield
    before["PYTEST_CURRENT_TEST"] = os.environ.get("PYTEST_CURRENT_TEST", "")
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def handlers_as_they_were() -> Iterator[None]:
    """No test leaves a handler that writes to what was standard error then, and is closed afterwards."""
    loggers = logging.getLogger(), logging.getLogger("service_utils")
    before = [each for logger in loggers for each in logger.handlers]
    yield
    for logger in loggers:
        for each in tuple(logger.handlers):
            if type(each) is logging.StreamHandler and each not in before:
                logger.removeHandler(each)
