"""A token with a line break, or in the wrong place, was quoted in the error about it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests

from service_utils import FallbackChain, ResilientServiceClient, ServiceRegistry, TokenError
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer

SECRET = "s3cret"


class Provider:
    def __init__(self, headers: Any) -> None:
        self.given = headers

    def headers(self, name: str) -> Mapping[str, str]:
        return self.given  # type: ignore[no-any-return]


def client_of(url: str = "http://127.0.0.1:9", **options: Any) -> ResilientServiceClient:
    return ResilientServiceClient(url, clock=FakeClock(), registry=ServiceRegistry(), **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda: client_of(token_provider=SECRET),
        lambda: client_of(headers=SECRET),
        lambda: client_of().get("/a", headers=SECRET),
        lambda: client_of().get("/a", headers={"Authorization": f"Bearer {SECRET}\n"}),
        lambda: client_of().get("/a", headers={"Authorization": f" {SECRET}"}),
        lambda: client_of().get("/a", headers={"Authorization": f"{SECRET} €"}),
        lambda: client_of().get(f"http://user:{SECRET}@127.0.0.1:9/a"),
        lambda: client_of().get(f"/a\n?token={SECRET}"),
    ],
)
def test_a_wrong_argument_that_is_a_secret(call: Callable[[], Any]) -> None:
    """The error names the argument and keeps the value to itself, wherever it is printed."""
    with pytest.raises((TypeError, ValueError)) as failure:
        call()

    assert SECRET not in "".join(traceback.format_exception(failure.value, chain=True)).replace(
        # The source lines of this very test.
        f"{{{SECRET}}}",
        "",
    )


@pytest.mark.parametrize(
    "headers",
    [{"X-Token": f"{SECRET}\n"}, {"X-Token": None}, {"X\n": SECRET}, {"X-Token": 5}, None, SECRET, [SECRET]],
)
def test_a_provider_of_unusable_tokens(fault_server: FaultServer, headers: Any) -> None:
    """A token read with its line break is a TokenError without the token; nothing is sent."""
    client = client_of(fault_server.url, token_provider=Provider(headers))

    with pytest.raises(TokenError) as failure:
        client.get("/a")

    assert SECRET not in "".join(traceback.format_exception(failure.value))
    assert fault_server.requests == []
    assert client.get_status()["requests"] == {
        "total": 1,
        "succeeded": 0,
        "failed": 0,
        "rejected": 1,
        "retried": 0,
    }


def test_the_query_of_a_refused_call() -> None:
    """The record of a call with a wrong argument has its path without the query, as all records do."""
    with pytest.raises(TypeError) as failure:
        client_of().get(f"/a?token={SECRET}", wrong=1)

    assert failure.value.call.path == "/a"  # type: ignore[attr-defined]


def test_the_query_of_a_call_that_failed() -> None:
    """A printed traceback shows no key of the query, in none of the errors it goes back to."""
    with pytest.raises(requests.ConnectionError) as failure:
        client_of(max_retries=1).get("/a", params={"api_key": SECRET})

    assert SECRET not in "".join(traceback.format_exception(failure.value))


def test_the_query_of_an_answer_that_a_chain_takes_for_a_failure(fault_server: FaultServer) -> None:
    """The error of a chain that has failed does not quote the query of the call inside."""
    fault_server.default = Answer(404)
    client = client_of(fault_server.url)
    chain = FallbackChain("answer", [("only", lambda: client.get("/a", params={"api_key": SECRET}))])

    with pytest.raises(requests.HTTPError) as failure:
        chain.run()

    assert SECRET not in str(failure.value)
