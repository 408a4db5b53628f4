"""The fixtures as a user's test suite gets them."""

from __future__ import annotations

import requests

from service_utils.testing import Answer, FakeClock, FaultServer

pytest_plugins = ["service_utils.testing.fixtures"]


def test_fake_clock_is_of_the_tests_own_thread(fake_clock: FakeClock) -> None:
    """The fixture's clock moves by itself when the test sleeps."""
    fake_clock.sleep(5)
    assert fake_clock.monotonic() == 5.0


def test_fault_server_listens(fault_server: FaultServer) -> None:
    """The fixture's server is up and takes a script."""
    fault_server.script(Answer(418))
    assert requests.get(fault_server.url, timeout=10).status_code == 418
