"""Plain calls: made of prepared parts, and the same to the byte as what requests makes from the ground."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.http.context import BoundContext
from service_utils.http.ordinary import CallDefaults, OrdinaryRequest, build
from service_utils.http.plain import PlainCalls, PlainRequest
from service_utils.http.transport import SessionTransport
from service_utils.http.urls import BaseURL
from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock, FaultServer, RecordedRequest

INBOUND = BoundContext("r-1", None, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
CREDENTIALS = {"X-INTERNAL-TOKEN": "secret"}


@dataclass
class Maker:
    """Makes calls of one client, plain or in the ordinary way."""

    transport: SessionTransport
    defaults: CallDefaults
    plain_calls: PlainCalls

    @classmethod
    def of(cls, base_url: str = "http://service:80/api", **options: Any) -> Maker:
        base = BaseURL.parse(base_url)
        transport = SessionTransport(
            base,
            "S",
            session=options.pop("session", None),
            pool_maxsize=1,
            max_response_bytes=1,
            verify=True,
            cert=None,
            trust_env=options.pop("trust_env", False),
        )
        defaults = CallDefaults(base, options.pop("headers", {}), None, options.pop("idempotency_keys", True))
        plain_calls = PlainCalls(
            base,
            defaults.headers,
            transport.default_headers,
            idempotency_keys=defaults.idempotency_keys,
        )
        return cls(transport, defaults, plain_calls)

    def plain(self, method: str, path: str, **arguments: Any) -> PlainRequest | None:
        params, key = arguments.pop("path_params", None), arguments.pop("idempotency_key", None)
        inbound, deadline = arguments.pop("inbound", INBOUND), arguments.pop("deadline", None)
        return self.plain_calls.build(method, path, params, key, deadline, inbound, arguments)

    def ordinary(self, method: str, path: str, **arguments: Any) -> OrdinaryRequest:
        return build(
            self.defaults,
            self.transport,
            method,
            path,
            path_params=arguments.pop("path_params", None),
            idempotency_key=arguments.pop("idempotency_key", None),
            deadline=arguments.pop("deadline", None),
            inbound=arguments.pop("inbound", INBOUND),
            arguments=arguments,
        )


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker.of(headers={"X-Tenant": "7", "accept": "application/json"})


def seen(call: PlainRequest | OrdinaryRequest) -> dict[str, Any]:
    """All that can be seen of a call, and of what it sends."""
    request = call.next_request(CREDENTIALS, 9.5)
    replay = call.replay()
    return {
        "method": call.method,
        "label": call.label,
        "key": call.idempotency_key,
        "request_id": call.request_id,
        "options": call.options,
        "replayable": call.replayable(),
        "error": call.code.error,
        "replay": replay if replay is None else (replay, list(replay.headers.items())),
        "line": (request.method, request.url, request.path_url),
        "headers": list(request.headers.items()),
        "body": (type(request.body), request.body),
        "hooks": request.hooks,
        "position": request._body_position,  # type: ignore[attr-defined]
    }


def the_same(maker: Maker, method: str, path: str, **arguments: Any) -> PlainRequest:
    """The plain call; asserts that the ordinary way makes the same of it."""
    if arguments.get("idempotency_key") is None and method in ("POST", "PATCH"):
        arguments["idempotency_key"] = "k-1"
    plain = maker.plain(method, path, **arguments)
    assert plain is not None
    assert seen(plain) == seen(maker.ordinary(method, path, **arguments))
    return plain


CALLS: dict[str, tuple[Any, ...]] = {
    "bare": ("GET", "/query"),
    "lower case": ("get", "/query"),
    "no slash": ("GET", "query"),
    "root": ("GET", "/"),
    "nothing": ("GET", ""),
    "query": ("GET", "/query?a=1&b=x/y"),
    "query alone": ("GET", "?a=1"),
    "letters that are encoded": ("GET", "/süß/a b/%7euser/%2f/[x]"),
    "dots": ("GET", "/a/./b/../c"),
    "two slashes": ("GET", "/a//b/"),
    "braces": ("GET", "/a/{b}"),
    "params": (
        "GET",
        "/q",
        {"params": {"a": 1, "b": "x y&ü", "c": [1, "2"], "d": 1.5, "e": None, "f": True}},
    ),
    "no params": ("GET", "/q", {"params": {}}),
    "params None": ("GET", "/q", {"params": None}),
    "params after a query": ("GET", "/q?a=1", {"params": {"b": "2"}}),
    "odd params": ("GET", "/q", {"params": {"a%20": b"\xff", 1: "/?#", "e": "", "l": []}}),
    "path_params": ("GET", "/p/{id}/files", {"path_params": {"id": "a/b ü%2f;.x"}}),
    "several places": ("GET", "/{a}/{b}/{a}", {"path_params": {"a": 1, "b": "2.5"}}),
    "place and query": ("GET", "/p/{id}?x=1", {"path_params": {"id": 7}, "params": {"y": 2}}),
    "places in one segment": ("GET", "/{a}-{b}.txt", {"path_params": {"a": "x", "b": ".y"}}),
    "headers": ("GET", "/q", {"headers": {"X-A": "1", "x-tenant": "8", "ACCEPT": "*/*", "X-B": "é"}}),
    "headers of another kind": ("GET", "/q", {"headers": CaseInsensitiveDict({"X-A": "1"})}),
    "no headers": ("GET", "/q", {"headers": None}),
    "own request id": ("GET", "/q", {"headers": {"x-request-id": "mine"}}),
    "empty request id": ("GET", "/q", {"headers": {"X-Request-Id": ""}}),
    "own trace": ("GET", "/q", {"headers": {"Traceparent": "mine"}}),
    "own token": ("GET", "/q", {"headers": {"x-internal-token": "mine"}}),
    "own time left": ("GET", "/q", {"headers": {"x-request-timeout-ms": "1"}}),
    "key of a read": ("GET", "/q", {"idempotency_key": "k-9"}),
    "stream": ("GET", "/q", {"stream": True, "allow_redirects": False}),
    "redirects None": ("GET", "/q", {"allow_redirects": None}),
    "head": ("HEAD", "/q"),
    "options": ("OPTIONS", "/q"),
    "delete": ("DELETE", "/q"),
    "json": ("POST", "/q", {"json": {"a": [1, None, "ü"]}}),
    "json of false": ("POST", "/q", {"json": False}),
    "json in a read": ("GET", "/q", {"json": {"a": 1}}),
    "json None": ("POST", "/q", {"json": None}),
    "empty post": ("POST", "/q"),
    "key in a header": ("POST", "/q", {"headers": {"idempotency-key": "k-2", "X-Z": "1"}}),
    "own content type": ("POST", "/q", {"json": {}, "headers": {"content-type": "text/json"}}),
    "own length": ("POST", "/q", {"json": {"a": 1}, "headers": {"content-length": "99", "X-Z": "1"}}),
    "own length, no body": ("PUT", "/q", {"headers": {"Content-length": "5"}}),
    "bytes": ("PUT", "/q", {"data": b"\x00\xff"}),
    "text": ("PATCH", "/q", {"data": "aü"}),
    "no bytes": ("POST", "/q", {"data": b""}),
    "no bytes but json": ("POST", "/q", {"data": b"", "json": {"a": 1}}),
    "bytes and json": ("POST", "/q", {"data": b"x", "json": {"a": 1}}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_both_ways_send_the_same(maker: Maker, call: tuple[Any, ...]) -> None:
    """Line, headers in their order, body, label, options and replay do not depend on the way."""
    method, path, *rest = call
    the_same(maker, method, path, **(rest[0] if rest else {}))


@pytest.mark.parametrize(
    "base_url", ["http://h", "https://h:8443/a/b/", "http://[::1]:80", "http://bücher.example/ü"]
)
@pytest.mark.parametrize("path", ["", "/", "x", "/x/{id}", "?q=1"])
def test_bases(base_url: str, path: str) -> None:
    """The same holds below every kind of base URL."""
    params = {"id": "1 2"} if "{" in path else None
    the_same(Maker.of(base_url), "GET", path, path_params=params)


segments = st.text(min_size=1, max_size=8)
paths = st.lists(st.text(alphabet="ab.-_~%2eF!$&'()*+,;=:@ü {}[]|\\^", max_size=6), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def either(make: Callable[[], PlainRequest | OrdinaryRequest | None]) -> Any:
    try:
        call = make()
    except (TypeError, ValueError):
        return "refused"
    return None if call is None else seen(call)


@given(path=paths, query=st.none() | st.text(alphabet="ab=&%2fF+/?#ü ", max_size=8))
def test_any_path(maker: Maker, path: str, query: str | None) -> None:
    """Whatever the path: it goes out as in the ordinary way, or takes that way."""
    path = path if query is None else f"{path}?{query}"
    plain = either(lambda: maker.plain("GET", path))
    assert plain is None or plain == either(lambda: maker.ordinary("GET", path))


@given(template=paths, values=st.dictionaries(st.sampled_from(["a", "b", "ab"]), segments, max_size=3))
def test_any_template(maker: Maker, template: str, values: dict[str, str]) -> None:
    """The same holds for values in any template."""
    plain = either(lambda: maker.plain("GET", template, path_params=values))
    assert plain is None or plain == either(lambda: maker.ordinary("GET", template, path_params=values))


scalars = st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.none()


@given(params=st.dictionaries(st.text(max_size=5), scalars | st.lists(scalars, max_size=3), max_size=4))
def test_any_params(maker: Maker, params: dict[str, Any]) -> None:
    """The same holds for any params."""
    plain = either(lambda: maker.plain("GET", "/q?z=0", params=params))
    assert plain is None or plain == either(lambda: maker.ordinary("GET", "/q?z=0", params=params))


tokens = st.sampled_from(["Accept", "accept", "X-A", "x-a", "Content-Type", "content-LENGTH", "X-Request-ID"])


@given(
    headers=st.dictionaries(tokens, st.text(max_size=4), max_size=5), body=st.none() | st.binary(max_size=3)
)
def test_any_headers(maker: Maker, headers: dict[str, str], body: bytes | None) -> None:
    """The same holds for any headers."""
    plain = either(lambda: maker.plain("PUT", "/q", headers=headers, data=body))
    assert plain is None or plain == either(lambda: maker.ordinary("PUT", "/q", headers=headers, data=body))


UNUSUAL: dict[str, dict[str, Any]] = {
    "auth": {"auth": ("u", "p")},
    "cookies": {"cookies": {"a": "b"}},
    "files": {"files": {"f": b"x"}},
    "hooks": {"hooks": {"response": print}},
    "proxies": {"proxies": {}},
    "verify": {"verify": False},
    "cert": {"cert": None},
    "params as text": {"params": "a=1"},
    "params as pairs": {"params": [("a", "1")]},
    "form": {"data": {"a": "1"}},
    "generator": {"data": iter([b"x"])},
    "bytearray": {"data": bytearray(b"x")},
    "header taken away": {"headers": {"Accept": None}},
    "header of bytes": {"headers": {"X-A": b"1"}},
    "unknown argument": {"colour": "red"},
    "bad header": {"headers": {"X-A": "a\nb"}},
    "bad json": {"json": float("nan")},
    "json of what is none": {"json": object()},
    "bad key": {"idempotency_key": "ä"},
    "headers that are none": {"headers": []},
    "value without a place": {"path_params": {"a": 1}},
    "no mapping of values": {"path_params": 5},
}


@pytest.mark.parametrize("arguments", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_not_plain_takes_the_ordinary_way(maker: Maker, arguments: dict[str, Any]) -> None:
    """What could mean more than is known here, and what is wrong, is left to the ordinary way."""
    assert maker.plain("POST", "/q", **arguments) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [("", "/q"), ("GÉT", "/q"), ("G T", "/q"), (b"GET", "/q"), ("GET", b"/q"), ("GET", None), ("GET", ["/q"]),
     ("GET", "/q#part"), ("GET", "/q?a=%41"), ("GET", "http://other/"), ("GET", "/../.."), ("GET", "/a\nb")],
)  # fmt: skip
def test_odd_methods_and_paths_take_the_ordinary_way(maker: Maker, method: Any, path: Any) -> None:
    """The same goes for methods and paths."""
    assert maker.plain(method, path) is None


def add_cookie(session: requests.Session) -> None:
    session.cookies.set("a", "b")


CHANGES: dict[str, Callable[[requests.Session], object]] = {
    "auth": lambda session: setattr(session, "auth", ("u", "p")),
    "params": lambda session: setattr(session, "params", {"a": "1"}),
    "cookies": add_cookie,
    "netrc and proxies": lambda session: setattr(session, "trust_env", True),
    "other headers": lambda session: setattr(session, "headers", {"A": "b"}),
    "a header that cannot be sent": lambda session: session.headers.update({"A": "b\nc"}),
    "a header taken away": lambda session: session.headers.update({"A": None}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_session_takes_the_ordinary_way(change: Callable[[requests.Session], object]) -> None:
    """Whatever somebody does to the session counts from the next call on."""
    maker = Maker.of()
    assert maker.plain("GET", "/q") is not None
    change(maker.transport._session)
    assert maker.plain("GET", "/q") is None


def test_headers_added_to_the_session() -> None:
    """A header that is added to the session goes out with the next call."""
    maker = Maker.of()
    the_same(maker, "GET", "/q")
    maker.transport._session.headers["X-Late"] = "1"
    the_same(maker, "GET", "/q")
    del maker.transport._session.headers["Accept"]
    call = the_same(maker, "GET", "/q")
    assert "Accept" not in call.next_request({}, None).headers


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (requests.Session, "prepare_request"),
        (requests.PreparedRequest, "prepare"),
        (requests.PreparedRequest, "prepare_url"),
        (requests.PreparedRequest, "prepare_body"),
    ],
)
def test_preparing_that_somebody_replaced(
    owner: type, name: str, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever replaces what prepares requests is called."""
    assert maker.plain("GET", "/q") is not None
    monkeypatch.setattr(owner, name, lambda *arguments: None)
    assert maker.plain("GET", "/q") is None


def test_json_encoder_that_somebody_replaced(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is whoever replaces the JSON encoder of requests, even by one that makes bytes."""

    class Encoder:
        @staticmethod
        def dumps(value: Any, **options: Any) -> bytes:
            return b"mine"

    monkeypatch.setattr(requests.models, "complexjson", Encoder)
    assert the_same(maker, "POST", "/q", json={"a": 1}).next_request({}, None).body == b"mine"


def test_json_encoding_that_somebody_extended(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody taught the encoder of the standard library holds for plain calls, too."""
    assert maker.plain("POST", "/q", json={1.5}) is None
    monkeypatch.setattr(json.JSONEncoder, "default", lambda self, value: sorted(value))
    assert the_same(maker, "POST", "/q", json={2, 1}).next_request({}, None).body == b"[1, 2]"


def test_json_encoder_class_that_somebody_replaced(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does another encoder in its place."""

    class Encoder(json.JSONEncoder):
        def default(self, value: Any) -> Any:
            return "mine"

    monkeypatch.setattr(json, "JSONEncoder", Encoder)
    assert the_same(maker, "POST", "/q", json={1}).next_request({}, None).body == b'"mine"'


def test_session_of_the_user_takes_the_ordinary_way() -> None:
    """A session that was given may do more than can be known."""
    assert Maker.of(session=requests.Session()).plain("GET", "/q") is None
    assert Maker.of(trust_env=True).plain("GET", "/q") is None


def test_new_keys_and_ids(maker: Maker) -> None:
    """Outside of a request each call has an id of its own, each POST a key, the same in all attempts."""
    calls = [maker.plain("POST", "/q", inbound=BoundContext()) for _ in range(2)]
    ids, keys = [call.request_id for call in calls if call], [call.idempotency_key for call in calls if call]
    assert len(set(ids)) == len(set(keys)) == 2
    assert calls[0] is not None
    sent = [calls[0].next_request({}, None).headers for _ in range(2)]
    assert sent[0] == sent[1]
    assert (sent[0]["X-Request-ID"], sent[0]["Idempotency-Key"]) == (ids[0], keys[0])


def test_attempts_share_nothing(maker: Maker) -> None:
    """What one attempt carries, or somebody does to its request, is not in the next one."""
    call = maker.plain("POST", "/q", json={"a": 1})
    assert call is not None
    first = call.next_request(CREDENTIALS, 1.0)
    first.headers["X-Mine"] = "1"
    first.hooks["response"].append(print)
    second = call.next_request({}, None)
    assert not {"X-INTERNAL-TOKEN", "X-Request-Timeout-Ms", "X-Mine"} & set(second.headers)
    assert second.hooks == {"response": []}


def test_no_value_stays_in_what_is_prepared() -> None:
    """What is kept between calls knows method and template, not the values, queries, headers and bodies."""
    maker = Maker.of()
    maker.plain(
        "POST", "/p/{id}?k=v41ue", path_params={"id": "v41ue"}, json={"a": "v41ue"}, headers={"A": "v41ue"}
    )
    assert "v41ue" not in repr(maker.plain_calls.prepared("POST", "/p/{id}", True))
    assert maker.plain_calls.prepared.cache_info().hits == 1


def test_repr_shows_no_secret(maker: Maker) -> None:
    """Headers and bodies are not shown."""
    call = maker.plain("POST", "/q?a=s3cret", json={"a": "s3cret"}, headers={"A": "s3cret"})
    assert "s3cret" not in repr(call)


def test_deadline_travels_with_the_call(maker: Maker, fake_clock: FakeClock) -> None:
    """The transport learns of the deadline."""
    deadline = Deadline.after(5.0, fake_clock)
    assert the_same(maker, "GET", "/q", deadline=deadline).options.deadline is deadline


@pytest.fixture
def client(fault_server: FaultServer) -> Iterator[ResilientServiceClient]:
    with ResilientServiceClient(
        fault_server.url, registry=ServiceRegistry(), headers={"X-Tenant": "7"}
    ) as client:
        yield client


def on_the_wire(request: RecordedRequest) -> tuple[Any, ...]:
    return request.method, request.target, list(request.headers.items()), request.body


@pytest.mark.parametrize(
    ("method", "path", "arguments"),
    [
        ("GET", "/q?a=1", {"params": {"b": "2 3"}}),
        ("POST", "/p/{id}", {"path_params": {"id": "a b"}, "json": {"a": "ü"}, "idempotency_key": "k-1"}),
        ("DELETE", "/q", {"headers": {"x-tenant": "8"}}),
    ],
)
def test_both_ways_on_the_wire(
    client: ResilientServiceClient,
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    arguments: Mapping[str, Any],
) -> None:
    """A service cannot tell the two ways apart."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "secret")
    monkeypatch.setattr("service_utils.http.plain.new_request_id", lambda: "r-1")
    monkeypatch.setattr("service_utils.http.ordinary.new_request_id", lambda: "r-1")
    client.request(method, path, **arguments)
    monkeypatch.setattr(
        requests.PreparedRequest, "prepare", lambda *a, f=requests.PreparedRequest.prepare, **k: f(*a, **k)
    )
    client.request(method, path, **arguments)
    plain, ordinary = fault_server.requests
    assert on_the_wire(plain) == on_the_wire(ordinary)
