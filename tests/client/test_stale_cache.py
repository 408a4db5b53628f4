"""StaleCache.get: a client's reads, each user's for himself, against a real server."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import requests
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from service_utils import (
    CircuitOpenError,
    DeadlineExceeded,
    ResilientServiceClient,
    RetryPolicy,
    StaticToken,
    TokenError,
    call_of,
    fixed,
)
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback import StaleCache, collect_degradations, stale_age
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest
from tests.side_by_side import PATIENCE, together

from .conftest import MakeClient

THREADS = 64
SECRET = "s3cr3t-of-one-user"


@pytest.fixture
def cache(fake_clock: FakeClock) -> StaleCache:
    return StaleCache(10, 60, clock=fake_clock)


@pytest.fixture
def client(make_client: MakeClient, fault_server: FaultServer) -> ResilientServiceClient:
    """One attempt a call; two failed calls open the circuit for 30 seconds of a fake clock."""
    fault_server.default = Answer(200, "good", {"X-Number": "1"})
    return make_client(
        fault_server.url, "Shop", max_retries=1, failure_threshold=2, recovery_timeout=30, token_provider=None
    )


def echo(request: RecordedRequest) -> Answer:
    """All that a service could tell users apart by."""
    mine = {name: value for name, value in request.headers.items() if name.lower() not in _OF_EACH_CALL}
    return Answer.json({"target": request.target, "headers": mine, "body": request.body.decode()})


_OF_EACH_CALL = {"x-request-id", "x-request-timeout-ms", "traceparent", "tracestate"}


# -- fresh and stale ------------------------------------------------------------------------------------


def test_fresh(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """While the answer is fresh no request is made, whatever the circuit says."""
    first = cache.get(client, "/items")
    client.breaker.force_open("maintenance")
    fake_clock.advance(9)
    second = cache.get(client, "/items")

    assert len(fault_server.requests) == 1
    assert (first.text, second.text, stale_age(second)) == ("good", "good", None)
    assert isinstance(second, requests.Response)


def test_stale_while_the_circuit_is_open(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """While the circuit is open the old answer is given without a request."""
    cache.get(client, "/items")
    client.breaker.force_open("maintenance")
    fake_clock.advance(25)

    with collect_degradations() as degraded:
        answer = cache.get(client, "/items")

    assert (answer.text, stale_age(answer), degraded) == ("good", 25.0, ["stale_cache"])
    assert len(fault_server.requests) == 1
    assert client.get_status()["requests"]["rejected"] == 1


def test_stale_when_the_call_fails(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Failed calls are counted, open the circuit, and show the caller nothing but an older answer."""
    cache.get(client, "/items")
    fake_clock.advance(20)
    fault_server.default = Answer(503)

    assert [stale_age(cache.get(client, "/items")) for _ in range(4)] == [20.0] * 4
    assert len(fault_server.requests) == 3
    assert client.state.value == "open"


def test_expiry(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """After ttl and stale_for the caller gets the error."""
    cache.get(client, "/items")
    fault_server.stop_listening()
    fault_server.disconnect()
    fake_clock.advance(69)
    assert cache.get(client, "/items").text == "good"
    fake_clock.advance(1)

    with pytest.raises(requests.ConnectionError):
        cache.get(client, "/items")


def test_recovery(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """When the service is back its answer is taken, and is fresh again."""
    cache.get(client, "/items")
    client.breaker.force_open("maintenance")
    fake_clock.advance(20)
    cache.get(client, "/items")
    client.reset()
    fault_server.default = Answer(200, "better")

    assert [cache.get(client, "/items").text for _ in range(3)] == ["better"] * 3
    assert len(fault_server.requests) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("raising", [False, True])
def test_4xx(
    make_client: MakeClient,
    cache: StaleCache,
    fault_server: FaultServer,
    fake_clock: FakeClock,
    status: int,
    raising: bool,
) -> None:
    """A 4xx is never covered up, and what was kept before is forgotten."""
    client = make_client(fault_server.url, raise_for_status=raising)
    cache.get(client, "/items")
    fake_clock.advance(20)
    fault_server.default = Answer(status)

    if raising:
        with pytest.raises(requests.HTTPError):
            cache.get(client, "/items")
    else:
        assert cache.get(client, "/items").status_code == status
    client.breaker.force_open("maintenance")
    with pytest.raises(CircuitOpenError):
        cache.get(client, "/items")


def test_failed_response_as_a_value(
    make_client: MakeClient, cache: StaleCache, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A client that returns failed responses gets the old answer too, or the response where there is none."""
    policy = RetryPolicy(max_attempts=2, backoff=fixed(1), raise_on_status=False)
    client = make_client(fault_server.url, retry=policy)
    cache.get(client, "/items")
    fake_clock.advance(20)
    fault_server.default = Answer(503)

    assert cache.get(client, "/items").status_code == 200
    assert cache.get(client, "/others").status_code == 503


def test_own_mistakes(cache: StaleCache, client: ResilientServiceClient, fake_clock: FakeClock) -> None:
    """Bad arguments are refused as the client refuses them."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        cache.get(client, "/items", colour="red")
    with pytest.raises(ValueError, match="not an address of its own"):
        cache.get(client, "http://elsewhere/")
    with pytest.raises(ValueError, match="deadline"):
        cache.get(client, "/items", deadline=-1)
    with pytest.raises(ValueError, match="stream"):
        cache.get(client, "/items", stream=True)
    with pytest.raises(TypeError, match="client="):
        cache.get(requests, "/items")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="identity"):
        cache.get(client, "/items", identity=object())


# -- one user's answer is never another's ---------------------------------------------------------------


class Signing(AuthBase):
    """An auth of one's own that says at once who the user is."""

    def __init__(self, user: str) -> None:
        self.user = user

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Signed-By"] = self.user
        return request


class Waiting(AuthBase):
    """One that waits for the service's answer before it says anything."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.register_hook("response", lambda answer, **kwargs: answer)  # type: ignore[no-untyped-call]
        return request


def as_user(user: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """All ways in which a call can say who the user is."""
    jar = requests.cookies.RequestsCookieJar()
    jar.set("session", user)
    return {
        "Authorization": lambda: {"headers": {"Authorization": f"Bearer {user}"}},
        "authorization": lambda: {"headers": {"authorization": f"Bearer {user}"}},
        "bytes": lambda: {"headers": {b"Authorization": f"Bearer {user}".encode()}},
        "Cookie": lambda: {"headers": {"Cookie": f"session={user}"}},
        "X-Api-Key": lambda: {"headers": {"X-Api-Key": user}},
        "any header": lambda: {"headers": {"Accept-Language": user}},
        "pair": lambda: {"auth": (user, "password")},
        "password": lambda: {"auth": ("user", user)},
        "basic": lambda: {"auth": HTTPBasicAuth(user, "password")},
        "own auth": lambda: {"auth": Signing(user)},
        "cookies": lambda: {"cookies": {"session": user}},
        "jar": lambda: {"cookies": jar},
        "query": lambda: {"params": {"key": user}},
        "query list": lambda: {"params": [("key", user)]},
        "query bytes": lambda: {"params": f"key={user}".encode()},
        "path": lambda: {"path_params": {"id": user}},
        "json": lambda: {"json": {"user": user}},
        "data": lambda: {"data": {"user": user}},
        "identity": lambda: {"identity": user},
        "called identity": lambda: {"identity": lambda: user},
    }


@pytest.mark.parametrize("way", as_user("x"))
def test_users_apart(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, way: str
) -> None:
    """However a call says who the user is, he gets his own answer, and gets it again."""
    fault_server.handler = echo
    path = "/users/{id}" if way == "path" else "/me"
    answers = [
        cache.get(client, path, **as_user(user)[way]()).json() for user in ("ann", "bob", "ann", "bob")
    ]

    assert answers[:2] == answers[2:]
    assert len(fault_server.requests) == 2
    if "identity" not in way:
        assert answers[0] != answers[1]


@pytest.mark.parametrize("way", ["Authorization", "Cookie", "pair", "own auth", "cookies", "identity"])
def test_users_apart_in_an_outage(
    cache: StaleCache,
    client: ResilientServiceClient,
    fault_server: FaultServer,
    fake_clock: FakeClock,
    way: str,
) -> None:
    """A user whose answer is not kept gets an error in an outage, not the answer of another."""
    fault_server.handler = echo
    cache.get(client, "/me", **as_user("ann")[way]())
    client.breaker.force_open("maintenance")
    fake_clock.advance(20)

    assert stale_age(cache.get(client, "/me", **as_user("ann")[way]())) == 20.0
    with pytest.raises(CircuitOpenError):
        cache.get(client, "/me", **as_user("bob")[way]())
    with pytest.raises(CircuitOpenError):
        cache.get(client, "/me")


def test_users_apart_at_once(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """64 threads of 16 users at once: each gets the answer of his user, of one request for each user."""
    fault_server.handler = echo

    def work(number: int) -> str:
        user = f"user-{number % 16}"
        answer = cache.get(client, "/me", headers={"Authorization": user})
        assert answer.json()["headers"]["Authorization"] == user
        return user

    assert len(set(together(THREADS, work))) == 16
    assert len(fault_server.requests) == 16


current_user = contextvars.ContextVar("current_user", default="nobody")


class PerUser:
    """A token provider that answers for the user of this thread."""

    def headers(self, name: str) -> Mapping[str, str]:
        user = current_user.get()
        if user == "nobody":
            raise TokenError("nobody is logged in")
        return {"Authorization": f"Bearer {user}"}


def test_token_providers_per_user(
    make_client: MakeClient, cache: StaleCache, fault_server: FaultServer
) -> None:
    """With a token provider that answers per user, 64 threads of 8 users get their own answers."""
    fault_server.handler = echo
    client = make_client(fault_server.url, token_provider=PerUser())

    def work(number: int) -> None:
        current_user.set(f"user-{number % 8}")
        answer = cache.get(client, "/me").json()
        assert answer["headers"]["Authorization"] == f"Bearer user-{number % 8}"

    together(THREADS, work)

    assert len(fault_server.requests) == 8


def test_no_token(
    make_client: MakeClient, cache: StaleCache, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """While the provider has no credentials nobody knows whose answer it would be: the call fails as ever."""
    client = make_client(fault_server.url, token_provider=PerUser())

    def as_ann(work: Callable[[], Any]) -> Any:
        context = contextvars.copy_context()
        context.run(current_user.set, "ann")
        return context.run(work)

    as_ann(lambda: cache.get(client, "/me"))
    with pytest.raises(TokenError):
        cache.get(client, "/me")
    fake_clock.advance(20)
    with pytest.raises(TokenError):
        cache.get(client, "/me")
    assert as_ann(lambda: cache.get(client, "/me")).status_code == 200
    assert cache.get_status()["passed"] == 2


def test_service_tokens(make_client: MakeClient, cache: StaleCache, fault_server: FaultServer) -> None:
    """A token that is the same for all is no obstacle; after its rotation the service is asked anew."""
    provider = StaticToken("one")
    client = make_client(fault_server.url, token_provider=provider)
    for _ in range(3):
        cache.get(client, "/items")
    assert len(fault_server.requests) == 1

    provider._headers = StaticToken("two").headers("")
    cache.get(client, "/items")
    assert len(fault_server.requests) == 2


def test_clients_apart(make_client: MakeClient, cache: StaleCache, fault_server: FaultServer) -> None:
    """Two clients never share answers: they may have other certificates, sessions and adapters."""
    for client in (make_client(fault_server.url), make_client(fault_server.url)):
        cache.get(client, "/items")

    assert len(fault_server.requests) == 2


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({}, {"allow_redirects": False}),
        ({}, {"verify": False}),
        ({}, {"proxies": {"https": "http://127.0.0.1:9"}}),
        ({}, {"cert": __file__}),
        ({"headers": {"Range": "bytes=0-1"}}, {}),
        ({"params": {"a": "1", "b": "2"}}, {"params": {"a": "1"}}),
        ({"headers": {"X-A": "b", "X-B": "d"}}, {"headers": {"X-A": "bx-bd"}}),
    ],
)
def test_ways_apart(
    cache: StaleCache,
    client: ResilientServiceClient,
    fault_server: FaultServer,
    one: dict[str, Any],
    two: dict[str, Any],
) -> None:
    """Calls that are sent in another manner have answers of their own."""
    for arguments in (one, two):
        cache.get(client, "/items", **arguments)

    assert len(fault_server.requests) == 2


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"headers": {"X-Api-Key": "k"}}, {"headers": {"x-api-KEY": "k"}}),
        ({"headers": {"A": "1", "B": "2"}}, {"headers": {"B": "2", "A": "1"}}),
        ({"params": {"a": "1"}}, {"params": [("a", "1")]}),
        ({"params": "a=1"}, {"params": b"a=1"}),
        ({"headers": {"X-Request-ID": "one"}}, {"headers": {"X-Request-ID": "two"}}),
        ({"headers": {"traceparent": "one"}}, {"headers": {"traceparent": "two"}}),
        ({"timeout": 3}, {"timeout": 4, "deadline": 9.0, "retry": RetryPolicy()}),
        ({"allow_redirects": True, "verify": None}, {}),
    ],
)
def test_ways_alike(
    cache: StaleCache,
    client: ResilientServiceClient,
    fault_server: FaultServer,
    one: dict[str, Any],
    two: dict[str, Any],
) -> None:
    """Calls that the service cannot tell apart, but for what is another in each call, share an answer."""
    for arguments in (one, two):
        cache.get(client, "/items", **arguments)

    assert len(fault_server.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: {"hooks": {"response": lambda answer, **kwargs: None}},
        lambda: {"auth": Waiting()},
        lambda: {"params": iter([("a", "1")])},
        lambda: {"params": {"a": iter("12")}},
        lambda: {"data": iter([b"body"])},
        lambda: {"files": {"f": b"content"}},
    ],
    ids=["hooks", "auth", "params", "values", "data", "files"],
)
def test_passed_by(
    cache: StaleCache,
    client: ResilientServiceClient,
    fault_server: FaultServer,
    arguments: Callable[[], dict[str, Any]],
) -> None:
    """What cannot be known before the call is not kept, and is sent as it would be without a cache."""
    fault_server.handler = echo
    expected = client.get("/items", **arguments()).json()
    for _ in range(2):
        answer = cache.get(client, "/items", **arguments()).json()
        assert [answer["target"], len(answer["body"])] == [expected["target"], len(expected["body"])]

    assert len(fault_server.requests) == 3
    assert cache.get_status()["entries"] == 0


def test_digest(cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """The first request of digest authentication says nothing of the user, so nothing is kept for him."""
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}

    def answer(request: RecordedRequest) -> Answer:
        said = request.headers.get("Authorization")
        return Answer(401, headers=challenge) if said is None else Answer(200, said.partition(",")[0])

    fault_server.handler = answer
    auths = {user: HTTPDigestAuth(user, "password") for user in ("ann", "bob")}
    for user in ("ann", "bob", "ann", "bob"):
        assert user in cache.get(client, "/me", auth=auths[user]).text
    assert cache.get_status()["entries"] == 0
    assert cache.get_status()["passed"] == 4


@pytest.mark.parametrize("kind", ["digest", "basic", "headers", "cookies", "cert"])
def test_users_of_a_session(
    cache: StaleCache, make_client: MakeClient, fault_server: FaultServer, kind: str
) -> None:
    """A session of the user's own may say who he is; when that changes, so does the answer."""
    fault_server.handler = echo
    session = requests.Session()
    client = make_client(fault_server.url, session=session)
    keys = []
    for user in ("ann", "bob"):
        if kind == "digest":
            session.auth = HTTPDigestAuth(user, "password")
        elif kind == "basic":
            session.auth = (user, "password")
        elif kind == "headers":
            session.headers["X-User"] = user
        elif kind == "cookies":
            session.headers["Cookie"] = f"session={user}"
        else:
            session.cert = f"{user}.pem"
        keys.append(client.read_key("/me", {}))
    found = [None if key is None else key.digest for key in keys]
    assert found == [None, None] if kind == "digest" else found[0] != found[1]
    session.close()


def reachable(thing: object) -> Iterator[object]:
    """All that a thing refers to, however far away; not what belongs to the whole process."""
    seen, pending = set[int](), [thing]
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, type | type(gc) | type(reachable)):
            continue
        seen.add(id(each))
        yield each
        pending += gc.get_referents(each)


@pytest.mark.parametrize(
    "way", ["Authorization", "Cookie", "X-Api-Key", "pair", "cookies", "jar", "identity"]
)
def test_no_credentials_are_kept(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, way: str
) -> None:
    """The cache holds no credentials: neither in its keys nor in the answers."""
    cache.get(client, "/me", **as_user(SECRET)[way]())
    assert cache.get_status()["entries"] == 1

    texts = [each for each in reachable(cache) if isinstance(each, str | bytes)]

    assert len(texts) > 20
    assert [
        each for each in texts if SECRET in (each if isinstance(each, str) else each.decode("latin-1"))
    ] == []


# -- copies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coded", [False, True])
def test_copies(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer, coded: bool
) -> None:
    """What one caller does to his response, nobody else sees."""
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Type", "text/plain; charset=utf-8")]
    fault_server.default = Answer(200, "grün", headers, chunk_size=3 if coded else None)
    answers = [cache.get(client, "/items") for _ in range(2)]
    for answer in answers:
        answer.headers["X-Mine"] = "changed"
        answer.headers.pop("Set-Cookie")
        answer._content = b"changed"
        answer.cookies.clear()
        answer.request.headers["X-Mine"] = "changed"
        answer.raw.headers.clear()
    last = cache.get(client, "/items")

    assert (last.text, last.encoding, last.reason, last.ok) == ("grün", "utf-8", "OK", True)
    assert (last.headers["Set-Cookie"], "X-Mine" in last.headers) == ("a=1, b=2", False)
    assert "X-Mine" not in last.request.headers
    assert last.raw.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert (last.cookies.get_dict(), last.request.method) == ({"a": "1", "b": "2"}, "GET")
    assert (last.url, last.elapsed, last.history) == (answers[0].url, answers[0].elapsed, [])
    assert list(last.iter_content(2)) == [b"gr", b"\xc3\xbc", b"n"]
    assert call_of(last) == call_of(answers[0])
    last.close()


def test_copies_after_redirects(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """A copy knows where the answer came from."""
    fault_server.script(Answer(302, headers={"Location": "/there"}))
    cache.get(client, "/here", headers={"X-Key": SECRET})
    answer = cache.get(client, "/here", headers={"X-Key": SECRET})

    assert [each.status_code for each in answer.history] == [302]
    assert answer.url.endswith("/there")
    assert "X-Key" not in {**answer.request.headers, **answer.history[0].request.headers}


# -- coalescing -----------------------------------------------------------------------------------------


def wait_until_waiting(cache: StaleCache, number: int) -> None:
    until = time.monotonic() + PATIENCE
    flights = cache._answers._flights._flights
    while sum(flight.waiting for flight in list(flights.values())) < number:
        assert time.monotonic() < until, "they do not wait"
        time.sleep(0.001)


def test_one_request(cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """64 identical reads at once are one request at the server."""
    fault_server.hold()

    def work(number: int) -> requests.Response:
        if number == 0:
            wait_until_waiting(cache, THREADS - 2)
            fault_server.release()
        return cache.get(client, "/items", headers={"X-Request-ID": f"r{number}"})

    answers = together(THREADS, work)

    assert len(fault_server.requests) == 1
    assert {answer.text for answer in answers} == {"good"}
    assert len({id(answer) for answer in answers}) == len({id(each.headers) for each in answers}) == THREADS
    assert len({call_of(answer).request_id for answer in answers}) == 1


def test_one_failure(cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Of 64 reads that wait for one failed request each gets its own error, and the circuit counts one."""
    fault_server.default = Answer(503, "no")
    fault_server.hold()
    errors: list[requests.HTTPError] = []

    def work(number: int) -> None:
        if number == 0:
            wait_until_waiting(cache, THREADS - 2)
            fault_server.release()
            return
        with pytest.raises(requests.HTTPError) as caught:
            cache.get(client, "/items")
        errors.append(caught.value)

    together(THREADS, work)

    assert len(fault_server.requests) == client.breaker.get_stats()["failure_count"] == 1
    assert len({id(error) for error in errors}) == len({id(each.response) for each in errors}) == THREADS - 1
    assert {(str(error), error.response.text) for error in errors} == {
        ("Shop: GET /items failed after 1 attempt: status 503", "no")
    }
    assert len({call_of(error).request_id for error in errors}) == 1


def test_other_time_outs(
    cache: StaleCache, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Nobody waits for the call of somebody who has another time-out, which may end too soon for him.

    That one gets the answer that has come meanwhile; it is a fresh one.
    """
    fault_server.script(Answer(200, "late", delay=5.0))

    def work(number: int) -> tuple[str, float | None, list[str]]:
        if number:
            fault_server.wait_for_requests(1)
        with collect_degradations() as degraded:
            answer = cache.get(client, "/items", **({} if number else {"timeout": 0.3}))
        return answer.text, stale_age(answer), degraded

    assert together(2, work) == [("good", None, [])] * 2
    assert len(fault_server.requests) == 2
    assert client.breaker.get_stats()["total"]["failed"] == 1


@pytest.mark.parametrize("inbound", [False, True])
def test_waiting_within_the_deadline(
    make_client: MakeClient,
    fault_server: FaultServer,
    inbound: bool,
) -> None:
    """Whoever waits for another's call does so within his own deadline, or that of the inbound request."""
    cache = StaleCache(10, 60)
    client = make_client(fault_server.url, clock=None)
    fault_server.hold()
    leader = threading.Thread(target=cache.get, args=(client, "/items"), daemon=True)
    leader.start()
    fault_server.wait_for_requests(1)
    try:
        token = bind_context(deadline=Deadline.after(0.05)) if inbound else None
        with pytest.raises(DeadlineExceeded) as caught:
            cache.get(client, "/items", **({} if inbound else {"deadline": 0.05}))
        if token is not None:
            unbind_context(token)
    finally:
        fault_server.release()
        leader.join(PATIENCE)

    assert (caught.value.sent, call_of(caught.value).attempts) == (False, ())
    assert len(fault_server.requests) == 1


def test_stale_at_the_deadline(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Whose time is up while he waits gets the old answer, if there is one."""
    cache = StaleCache(0, 60)
    client = make_client(fault_server.url, clock=None)
    cache.get(client, "/items")
    fault_server.hold()
    leader = threading.Thread(target=cache.get, args=(client, "/items"), daemon=True)
    leader.start()
    fault_server.wait_for_requests(2)
    try:
        assert cache.get(client, "/items", deadline=0.05).status_code == 200
    finally:
        fault_server.release()
        leader.join(PATIENCE)


def test_leader_out_of_time(make_client: MakeClient, fault_server: FaultServer) -> None:
    """When the one who calls runs out of his own time, another one calls in his place."""
    cache = StaleCache(10, 60)
    client = make_client(fault_server.url, clock=None, max_retries=1)
    fault_server.script(Answer(200, "late", delay=5.0))
    answers: list[str] = []

    def lead() -> None:
        with pytest.raises(DeadlineExceeded):
            cache.get(client, "/items", deadline=0.2)

    def follow() -> None:
        fault_server.wait_for_requests(1)
        answers.append(cache.get(client, "/items", deadline=10).text)

    together(4, lambda number: follow() if number else lead())

    assert answers == [""] * 3
    assert len(fault_server.requests) == 2


def test_deadline_counts_from_the_first(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """The client's deadline begins when the cache is asked, not when the waiting is over."""
    client = make_client(fault_server.url, deadline=5.0)
    key = client.read_key("/items", {})
    assert key is not None
    fake_clock.advance(2)

    assert key.patience() == 3.0
    assert key.bounded({"timeout": 1})["deadline"].remaining() == 3.0
