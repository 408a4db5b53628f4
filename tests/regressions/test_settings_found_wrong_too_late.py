"""Settings that could not work were found at the first call, or not at all."""

from __future__ import annotations

import pytest

from backend.config import Settings
from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import Answer

INTERNAL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INTERNAL_SERVICE_TOKEN", "with space"),
        ("INTERNAL_SERVICE_TOKEN_FILE", "/no/such/file"),
        ("INTERNAL_TOKEN_HOSTS", "http://partner.example.com"),
        ("INTERNAL_TOKEN_HOSTS", "partner.example.com:8080"),
    ],
)
def test_client_names_the_variable_at_once(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client does not start with a token or hosts it could never use, in any profile."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(ValueError, match=variable):
        ResilientServiceClient(INTERNAL, registry=ServiceRegistry())


@pytest.mark.parametrize(
    "hosts", ["partner.example.com", ".example.com, *.example.org", "10.1.2.3", "[fd00::1]"]
)
def test_declared_hosts_may_be_names_and_addresses(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What INTERNAL_TOKEN_HOSTS is for goes on working."""
    monkeypatch.setenv("INTERNAL_TOKEN_HOSTS", hosts)

    ResilientServiceClient(INTERNAL, registry=ServiceRegistry()).close()


@pytest.mark.parametrize("variable", ["LLM_SERVER_URL", "LLM_FALLBACK_URL"])
def test_address_of_an_llm_server(variable: str) -> None:
    """A bad address is told by the variable it stands in."""
    with pytest.raises(ValueError, match=f"^{variable}="):
        Settings.load({variable: "http://u:x@h:bad"})


def test_header_that_cannot_be_sent_by_a_fault_server() -> None:
    """An answer that could never go over the wire is refused when it is made."""
    with pytest.raises(ValueError, match="Retry-After"):
        Answer(503, headers={"Retry-After": "３"})
