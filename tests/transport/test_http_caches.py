"""HTTP caching proper, by requests-cache and CacheControl: sessions that a client sends with."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate

import pytest
import requests
from cachecontrol import CacheControl
from requests_cache import CachedSession

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.http.transport import FastSession
from service_utils.policies.fallback import StaleCache, stale_age
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest

_USERS = ["Authorization", "Cookie", "X-INTERNAL-TOKEN"]


def cacheable(request: RecordedRequest) -> Answer:
    """An answer that any cache may keep for a minute, for the user who asked."""
    headers = {
        "Cache-Control": "max-age=60",
        "Date": formatdate(usegmt=True),
        "Vary": "Authorization, Cookie",
        "X-Method": request.method,
    }
    return Answer(200, request.headers.get("Authorization", "nobody"), headers)


@pytest.fixture(params=["requests-cache", "CacheControl"])
def session(request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """A session that caches, as its library makes it."""
    if request.param == "requests-cache":
        # It ignores Authorization, even in match_headers, unless it is told to ignore nothing.
        made = CachedSession(backend="memory", match_headers=_USERS, ignored_parameters=[])
    else:
        made = CacheControl(FastSession())
    with made:
        yield made


@pytest.fixture
def client(
    session: requests.Session, fault_server: FaultServer, registry: ServiceRegistry
) -> Iterator[ResilientServiceClient]:
    fault_server.handler = cacheable
    with ResilientServiceClient(
        fault_server.url, "Shop", registry=registry, session=session, max_retries=1, failure_threshold=2
    ) as client:
        yield client


def test_a_hit(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A hit reaches no server, and is a real response with a record."""
    first, second = client.get("/items"), client.get("/items")

    assert len(fault_server.requests) == 1
    assert (first.text, second.text) == ("nobody", "nobody")
    assert (first.from_cache, second.from_cache) == (False, True)  # type: ignore[attr-defined]
    assert isinstance(second, requests.Response)
    assert call_of(second).request_id != call_of(first).request_id


def test_a_hit_is_a_success(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Circuit and counters see a hit as what it is to the caller: a call that went well."""
    client.get("/items")
    fault_server.script(Answer(503))
    with pytest.raises(requests.HTTPError):
        client.get("/others")
    assert client.breaker.get_stats()["failure_count"] == 1
    client.get("/items")

    assert client.breaker.get_stats()["failure_count"] == 0
    assert client.breaker.get_stats()["total"]["succeeded"] == 2
    counted = client.get_status()["requests"]
    assert (counted["succeeded"], counted["failed"]) == (2, 1)


def test_writes(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Writes go through, each time."""
    client.get("/items")
    for _ in range(2):
        assert client.post("/items", json={"n": 1}).headers["X-Method"] == "POST"
        assert client.delete("/items/1").headers["X-Method"] == "DELETE"

    assert [request.method for request in fault_server.requests] == ["GET", *["POST", "DELETE"] * 2]


def test_failures_are_not_kept(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A failed answer is no hit the next time."""
    fault_server.script(Answer(503, headers={"Cache-Control": "max-age=60"}))
    with pytest.raises(requests.HTTPError):
        client.get("/items")

    assert client.get("/items").text == "nobody"
    assert len(fault_server.requests) == 2


@pytest.mark.parametrize("name", _USERS)
def test_users_apart(
    client: ResilientServiceClient, session: requests.Session, fault_server: FaultServer, name: str
) -> None:
    """requests-cache keeps users apart by match_headers, CacheControl where the service says Vary."""
    said = {"Cache-Control": "max-age=60", "Date": formatdate(usegmt=True)}
    if not isinstance(session, CachedSession):
        said["Vary"] = name
    fault_server.handler = lambda request: Answer(200, request.headers[name], said)

    for user in ("ann", "ann", "bob", "bob", "ann"):
        assert client.get("/me", headers={name: user}).text == user
    assert len(fault_server.requests) < 5


def test_revalidation(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """What has to be asked for again is asked with its ETag; a 304 is the answer that was kept."""
    headers = {"ETag": '"1"', "Cache-Control": "no-cache", "Date": formatdate(usegmt=True)}

    def answer(request: RecordedRequest) -> Answer:
        known = request.headers.get("If-None-Match") == '"1"'
        return Answer(304 if known else 200, "" if known else "whole", headers)

    fault_server.handler = answer
    assert [client.get("/items").text for _ in range(2)] == ["whole", "whole"]


def test_under_a_stale_cache(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A StaleCache keeps what comes out of an HTTP cache like any other answer."""
    clock = FakeClock()
    cache = StaleCache(1, 60, clock=clock)
    cache.get(client, "/items")
    clock.advance(2)
    cache.get(client, "/items")
    client.breaker.force_open("maintenance")
    clock.advance(2)
    answer = cache.get(client, "/items")

    assert (answer.text, stale_age(answer), len(fault_server.requests)) == ("nobody", 2.0, 1)
