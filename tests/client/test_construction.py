"""Making a client: what is checked, what replaces what, and where it is entered."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from service_utils import (
    BreakerConfig,
    ResilientServiceClient,
    RetryPolicy,
    ServiceRegistry,
    default_registry,
    get_circuit_breaker,
    get_circuit_stats,
    reset_all_circuits,
)
from service_utils.testing import FaultServer

from .conftest import MakeClient

BAD: list[tuple[str, Any, type[Exception]]] = [
    ("base_url", 7, TypeError),
    ("service_name", 7, TypeError),
    ("service_name", " ", ValueError),
    ("service_name", "two\nlines", ValueError),
    ("max_retries", 0, ValueError),
    ("max_retries", 2.5, TypeError),
    ("max_retries", True, TypeError),
    ("timeout", 0, ValueError),
    ("timeout", -1, ValueError),
    ("timeout", "10", TypeError),
    ("timeout", None, TypeError),
    ("timeout", float("inf"), ValueError),
    ("timeout", (1, 2, 3), ValueError),
    ("timeout", (1, -2), ValueError),
    ("failure_threshold", 0, ValueError),
    ("recovery_timeout", -1, ValueError),
    ("recovery_timeout", "60", TypeError),
    ("name", "no spaces", ValueError),
    ("name", "", ValueError),
    ("retry", 3, TypeError),
    ("breaker", {}, TypeError),
    ("deadline", 0, ValueError),
    ("deadline", "1", TypeError),
    ("token_provider", "secret", TypeError),
    ("headers", {"bad name": "x"}, ValueError),
    ("headers", {"X-A": "a\r\nb"}, ValueError),
    ("headers", {"X-A": 7}, TypeError),
    ("verify", "/no/such/bundle.pem", ValueError),
    ("verify", None, TypeError),
    ("cert", "/no/such/cert.pem", ValueError),
    ("cert", 7, TypeError),
    ("listeners", [7], TypeError),
    ("clock", object(), TypeError),
    ("pool_maxsize", 0, ValueError),
    ("max_response_bytes", 0, ValueError),
    ("idle_timeout", 0, ValueError),
    ("idle_timeout", "30", TypeError),
    ("max_connection_age", -1.0, ValueError),
    ("max_connection_age", float("nan"), ValueError),
    ("health_path", "http://elsewhere/", ValueError),
    ("session", object(), TypeError),
    ("registry", {}, TypeError),
    ("dead_letters", object(), TypeError),
    ("idempotency_keys", "yes", TypeError),
    ("raise_for_status", 1, TypeError),
    ("trust_env", "no", TypeError),
    ("store", object(), TypeError),
    ("bulkhead", 0, ValueError),
    ("rate_limit", 0, ValueError),
    ("probe", True, ValueError),
]


@pytest.mark.parametrize(
    ("argument", "value", "error"), BAD, ids=[f"{name}={value!r:.20}" for name, value, _ in BAD]
)
def test_bad_argument(argument: str, value: Any, error: type[Exception], registry: ServiceRegistry) -> None:
    """Every bad argument is refused at construction by its name, and nothing is entered anywhere."""
    arguments: dict[str, Any] = {"base_url": "http://127.0.0.1:9", "registry": registry, argument: value}

    with pytest.raises(error, match=argument):
        ResilientServiceClient(**arguments)

    assert len(registry) == 0


@pytest.mark.parametrize(
    ("plain", "value"), [("max_retries", 3), ("failure_threshold", 5), ("recovery_timeout", 60)]
)
def test_plain_argument_beside_its_policy(plain: str, value: int, make_client: MakeClient) -> None:
    """Even the default value, once given, clashes with the object that replaces it."""
    policy = {"retry": RetryPolicy()} if plain == "max_retries" else {"breaker": BreakerConfig()}

    with pytest.raises(ValueError, match=f"{plain}={value}"):
        make_client(**{plain: value}, **policy)


def test_defaults_are_those_of_the_contract() -> None:
    """The signature shows the documented defaults."""
    parameters = inspect.signature(ResilientServiceClient).parameters
    shown = {name: parameters[name].default for name in list(parameters)[1:6]}

    assert shown == {
        "service_name": "Service",
        "max_retries": 3,
        "timeout": 10,
        "failure_threshold": 5,
        "recovery_timeout": 60,
    }


def test_positional_arguments() -> None:
    """The six plain arguments may be given by position."""
    with ResilientServiceClient(
        "http://127.0.0.1:9", "Git Server", 2, 30, 7, 90, registry=ServiceRegistry()
    ) as client:
        assert client.retry.max_attempts == 2
        assert client.timeout == 30
        assert (client.breaker.config.failure_threshold, client.breaker.config.recovery_timeout) == (7, 90)
        assert client.name == "git-server"


def test_name_is_the_slug_of_the_display_name(make_client: MakeClient) -> None:
    """Without a name the display name in lower case serves."""
    assert make_client(service_name="Chroma Server (EU)").name == "chroma-server-eu"
    assert make_client(service_name="服务").name == "service"
    assert make_client(service_name="Chroma", name="vec.1").name == "vec.1"


def test_policies_are_taken_as_they_are(make_client: MakeClient) -> None:
    """Policy objects replace the plain arguments."""
    client = make_client(retry=RetryPolicy(max_attempts=7), breaker=BreakerConfig(failure_threshold=2))

    assert client.retry.max_attempts == 7
    assert client.breaker.config.failure_threshold == 2


def test_clients_enter_the_registry_of_the_process() -> None:
    """Without a registry of its own a client is found in the process's, until it is closed."""
    with ResilientServiceClient("http://127.0.0.1:9", "Findable") as client:
        assert default_registry()["findable"] is client
        assert get_circuit_breaker("findable") is client.breaker
        client.breaker.force_open("test")
        reset_all_circuits()
        assert get_circuit_stats()["findable"]["state"] == "closed"

    assert "findable" not in default_registry()


def test_session_of_the_users(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A session that is handed in sends, and is not closed with the client."""
    import requests

    session = requests.Session()
    session.headers["X-Session"] = "mine"
    client = make_client(fault_server.url, session=session)
    client.get("/x")
    client.close()

    assert fault_server.requests[0].headers["X-Session"] == "mine"
    assert session.get(fault_server.url).status_code == 200
    session.close()


def test_headers_of_the_client_and_of_the_call(make_client: MakeClient, fault_server: FaultServer) -> None:
    """The call's headers lie over the client's; None takes one away."""
    client = make_client(fault_server.url, headers={"X-A": "client", "X-B": "client"})

    client.get("/x", headers={"x-a": "call", "X-B": None})

    assert fault_server.requests[0].headers["X-A"] == "call"
    assert "X-B" not in fault_server.requests[0].headers


def test_readme_promise_without_settings() -> None:
    """A client can be made in a bare environment, in one line."""
    code = "from service_utils import ResilientServiceClient as C; print(C('http://127.0.0.1:9').state.value)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "closed\n"
