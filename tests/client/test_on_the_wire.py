"""What a call carries: keys, tokens, ids, the time left; and what it never carries."""

from __future__ import annotations

import threading

import pytest
import requests

from service_utils import (
    BearerToken,
    EndReason,
    ResilientServiceClient,
    StaticToken,
    TokenError,
    call_of,
    get_internal_headers,
)
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import Answer, FakeClock, FaultServer, close_connection

from .conftest import MakeClient

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# -- idempotency keys --------------------------------------------------------------------------------------


def test_writes_carry_one_key_through_all_attempts(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """All attempts of one POST have the same key, two POSTs have two."""
    fault_server.script(Answer(503), close_connection(), Answer(200))

    first = client.post("/x", json={})
    client.post("/x", json={})

    keys = [request.headers["Idempotency-Key"] for request in fault_server.requests]
    assert keys[0] == keys[1] == keys[2] == call_of(first).idempotency_key
    assert keys[3] != keys[0]


def test_callers_own_key(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A key given as argument or header is the one that travels."""
    client.post("/x", idempotency_key="order-17")
    client.put("/x", headers={"idempotency-key": "order-18"})

    assert [request.headers["Idempotency-Key"] for request in fault_server.requests] == [
        "order-17",
        "order-18",
    ]


def test_reads_carry_no_key(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """GET, PUT and DELETE need none."""
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
        client.request(method, "/x")

    assert all("Idempotency-Key" not in request.headers for request in fault_server.requests)


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "ü", "x" * 256])
def test_malformed_key(key: str, client: ResilientServiceClient) -> None:
    """A key that cannot travel is refused before anything is sent."""
    with pytest.raises(ValueError, match="idempotency_key"):
        client.post("/x", idempotency_key=key)


# -- tokens ------------------------------------------------------------------------------------------------


def test_internal_token_from_the_environment(
    make_client: MakeClient, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Internal hosts get the token of the moment; a rotation needs no restart."""
    client = make_client(fault_server.url)
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "first")
    client.get("/x")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "second")
    client.get("/x")

    assert [request.headers["X-INTERNAL-TOKEN"] for request in fault_server.requests] == ["first", "second"]
    assert get_internal_headers() == {"X-INTERNAL-TOKEN": "second"}


def test_public_hosts_get_no_internal_token(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, captured: list[requests.PreparedRequest]
) -> None:
    """A client of a public API must not send our secret there, nor how long we wait."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "first")
    make_client("http://api.example.com").get("/x")
    make_client("http://api.example.com", token_provider=BearerToken("key")).get("/x")

    assert all("X-INTERNAL-TOKEN" not in sent.headers for sent in captured)
    assert all("X-Request-Timeout-Ms" not in sent.headers for sent in captured)
    assert captured[1].headers["Authorization"] == "Bearer key"


def test_no_provider_no_token(
    make_client: MakeClient, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """token_provider=None sends none, not even to internal hosts."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "first")
    make_client(fault_server.url, token_provider=None).get("/x")

    assert "X-INTERNAL-TOKEN" not in fault_server.requests[0].headers


def test_production_refuses_to_start_without_a_token(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production a client of an internal host needs INTERNAL_SERVICE_TOKEN from the start."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")

    with pytest.raises(ValueError, match="INTERNAL_SERVICE_TOKEN"):
        make_client("http://chroma:6003")


class Rotating:
    """Credentials that are stale until they are refreshed."""

    def __init__(self) -> None:
        self.number = 1
        self.refreshed = 0
        self.error: Exception | None = None

    def headers(self, name: str) -> dict[str, str]:
        return {"X-Token": f"{name}-{self.number}"}

    def refresh(self, name: str) -> None:
        self.refreshed += 1
        if self.error is not None:
            raise self.error
        self.number += 1


def test_unauthorized_refreshes_once_and_repeats_once(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """A 401 brings fresh credentials and one repeat that is no attempt."""
    provider = Rotating()
    client = make_client(fault_server.url, name="chroma", token_provider=provider)
    fault_server.script(Answer(401), Answer(200))

    response = client.post("/x", json={"a": 1})

    assert response.status_code == 200
    assert [request.headers["X-Token"] for request in fault_server.requests] == ["chroma-1", "chroma-2"]
    assert len(call_of(response).attempts) == 1
    assert {request.headers["Idempotency-Key"] for request in fault_server.requests} == {
        call_of(response).idempotency_key
    }


def test_unauthorized_twice_is_the_answer(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A second 401 comes back as it is."""
    provider = Rotating()
    fault_server.default = Answer(401)

    response = make_client(fault_server.url, token_provider=provider).get("/x")

    assert response.status_code == 401
    assert provider.refreshed == 1
    assert len(fault_server.requests) == 2


def test_refresh_that_fails(make_client: MakeClient, fault_server: FaultServer) -> None:
    """No fresh credentials: a TokenError, ignored by the breaker."""
    provider = Rotating()
    provider.error = RuntimeError("vault says s3cret")
    fault_server.default = Answer(401)
    client = make_client(fault_server.url, token_provider=provider)

    with pytest.raises(TokenError) as caught:
        client.get("/x")

    assert "s3cret" not in str(caught.value)
    assert call_of(caught.value).ended is EndReason.REFUSED
    assert client.breaker.get_stats()["total"]["ignored"] == 1


def test_fifty_threads_refresh_once(make_client: MakeClient, fault_server: FaultServer) -> None:
    """However many threads are turned away, one refresh serves them all."""
    provider = Rotating()
    client = make_client(fault_server.url, name="x", token_provider=provider)
    fault_server.handler = lambda request: Answer(200 if request.headers["X-Token"] == "x-2" else 401)
    barrier = threading.Barrier(50)
    statuses: list[int] = []

    def call() -> None:
        barrier.wait()
        statuses.append(client.get("/x").status_code)

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert statuses == [200] * 50
    assert provider.refreshed == 1


def test_callers_own_credentials_win(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A header the caller sets is not replaced by the provider's."""
    client = make_client(fault_server.url, token_provider=StaticToken("ours"))

    client.get("/x", headers={"x-internal-token": "theirs"})

    assert fault_server.requests[0].headers["X-INTERNAL-TOKEN"] == "theirs"


# -- ids, traces, time left --------------------------------------------------------------------------------


def test_request_id_and_trace_travel_on(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """What came in with the inbound request goes out with every attempt."""
    fault_server.script(Answer(503), Answer(200))
    token = bind_context(request_id="req-1", trace={"traceparent": TRACE, "tracestate": "a=1"})
    try:
        response = client.get("/x")
    finally:
        unbind_context(token)

    for request in fault_server.requests:
        assert request.headers["X-Request-ID"] == "req-1"
        assert request.headers["traceparent"] == TRACE
        assert request.headers["tracestate"] == "a=1"
    assert call_of(response).request_id == "req-1"


def test_request_id_is_made_when_there_is_none(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Outside of a request each call has an id of its own."""
    client.get("/x")
    client.get("/x")

    ids = {request.headers["X-Request-ID"] for request in fault_server.requests}
    assert len(ids) == 2
    assert all("traceparent" not in request.headers for request in fault_server.requests)


def test_time_left_is_told_per_attempt(make_client: MakeClient, fault_server: FaultServer) -> None:
    """The service hears how long an answer is of use: the time-out, or less near the deadline."""
    clock = FakeClock()
    client = make_client(fault_server.url, clock=clock, timeout=5)
    client.get("/x")
    client.get("/x", deadline=Deadline.after(2.0, clock))

    assert [request.headers["X-Request-Timeout-Ms"] for request in fault_server.requests] == ["5000", "2000"]


# -- what a shared session must not carry ------------------------------------------------------------------


def test_cookies_are_not_kept(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """One user's cookie never travels with another's call; the caller's own cookies do."""
    fault_server.script(Answer(200, headers={"Set-Cookie": "session=alice"}))

    first = client.get("/x")
    client.get("/x")
    client.get("/x", cookies={"mine": "1"})

    assert first.cookies["session"] == "alice"
    assert "Cookie" not in fault_server.requests[1].headers
    assert fault_server.requests[2].headers["Cookie"] == "mine=1"


def test_cookies_are_not_kept_in_a_session_of_the_users(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """The same holds for a session that was handed in; cookies put in by hand still go out."""
    session = requests.Session()
    session.cookies.set("by-hand", "1")
    client = make_client(fault_server.url, session=session)
    fault_server.script(Answer(200, headers={"Set-Cookie": "session=alice"}))

    client.get("/x")
    client.get("/x")

    assert fault_server.requests[1].headers["Cookie"] == "by-hand=1"


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[requests.PreparedRequest]:
    """Catches requests in place of the network."""
    sent: list[requests.PreparedRequest] = []

    def send(self: object, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:
        sent.append(request)
        response = requests.Response()
        response.status_code, response.url, response.request = 200, str(request.url), request
        response._content = b""
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return sent


def test_machine_settings_do_not_interfere(
    make_client: MakeClient,
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pytest.TempPathFactory,
) -> None:
    """Neither a proxy in the environment nor .netrc touches a call."""
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w", encoding="ascii") as file:
        file.write("machine 127.0.0.1 login mallory password hidden\n")
    monkeypatch.setenv("NETRC", netrc)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    make_client(fault_server.url, auth=None).get("/x")

    assert "Authorization" not in fault_server.requests[0].headers


def test_machine_settings_count_when_asked_for(
    make_client: MakeClient, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trust_env=True the machine's proxy is used."""
    monkeypatch.setenv("HTTP_PROXY", fault_server.url)
    monkeypatch.setenv("NO_PROXY", "")

    make_client("http://somewhere.example.com", trust_env=True).get("/x")

    assert fault_server.requests[0].target == "http://somewhere.example.com/x"


def test_credentials_of_the_base_url(make_client: MakeClient, fault_server: FaultServer) -> None:
    """user:password in the base URL becomes basic auth and is shown nowhere."""
    client = make_client(fault_server.url.replace("//", "//user:p%40ss@"))

    response = client.get("/x")

    assert requests.auth._basic_auth_str("user", "p@ss") == fault_server.requests[0].headers["Authorization"]
    assert "ss@" not in f"{client!r} {client.get_status()} {response.url} {response.call}"
