"""Dead letters kept keys in headers of unusual names, and the wrong path below a base URL with letters."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from requests.auth import AuthBase

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer

SECRETS = ["Ocp-Apim-Subscription-Key", "X-Access-Key", "X_API_KEY", "X-Passwd", "X-Signature", "X-Jwt"]


class ShopAuth(AuthBase):
    def __call__(self, request: Any) -> Any:
        request.headers["X-Shop"] = "s3cret"
        return request


def replay_of(client: ResilientServiceClient, **kwargs: Any) -> Any:
    with pytest.raises(requests.HTTPError) as failure:
        client.post("/a", json={}, **kwargs)
    return call_of(failure.value).replay


def test_headers_that_are_credentials(fault_server: FaultServer) -> None:
    """No key is kept, by whatever name it goes and whoever has set it; the other headers are."""
    fault_server.default = Answer(501)
    client = ResilientServiceClient(
        fault_server.url,
        headers=dict.fromkeys(SECRETS, "s3cret"),
        auth=ShopAuth(),
        clock=FakeClock(),
        registry=ServiceRegistry(),
    )

    replay = replay_of(client, headers={"X-Upstream": "Bearer s3cret", "X-Tenant": "t"})

    assert "s3cret" not in repr(replay)
    assert replay.headers["X-Tenant"] == "t"
    assert replay.headers["Content-Type"] == "application/json"
    assert replay.headers["Idempotency-Key"] == replay.idempotency_key


@pytest.mark.parametrize("base", ["/ä", "/%7Eshop", "/x/../shop", "/%c3%a4/"])
def test_a_base_path_in_another_spelling(fault_server: FaultServer, base: str) -> None:
    """The path of a letter is relative to the base URL, however that is spelled."""
    fault_server.default = Answer(501)
    client = ResilientServiceClient(fault_server.url + base, clock=FakeClock(), registry=ServiceRegistry())

    assert replay_of(client).path == "/a"


def test_an_international_host() -> None:
    """A host name with letters of its language can be called."""
    client = ResilientServiceClient(
        "http://bücher.invalid", max_retries=1, clock=FakeClock(), registry=ServiceRegistry()
    )

    assert client.base_url == "http://xn--bcher-kva.invalid"
    with pytest.raises(requests.ConnectionError):
        client.get("/")
