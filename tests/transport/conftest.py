"""What the tests of the transport share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from service_utils import ServiceRegistry

from .certificates import Certificates
from .raw_server import RawServer


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and certificates it has signed."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    """A registry for one test's clients."""
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    """A server that says what it is told to, and records what it hears."""
    with RawServer() as server:
        yield server


@pytest.fixture
def quiet_urllib3() -> Iterator[None]:
    """urllib3 warns of every answer that is odd; thousands of such warnings help nobody."""
    logger = logging.getLogger("urllib3")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
