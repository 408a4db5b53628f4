"""Mocking libraries and patches: who replaces a function is called, at once, and as long as that lasts."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import requests_mock
import responses
import vcr
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import Retry

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry, call_of
from service_utils.testing import FakeClock

from .pieces import Script
from .raw_server import RawServer
from .sessions import fast_session, warm, whence

PATIENCE = 10


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=PATIENCE) as server:
        yield server


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def client(server: RawServer, registry: ServiceRegistry) -> ResilientServiceClient:
    """A client that has been in use, so that it sends the fast way."""
    client = ResilientServiceClient(
        server.url, registry=registry, clock=FakeClock(), timeout=PATIENCE, retry=RetryPolicy(jitter=0.0)
    )
    return warmed(client)


@pytest.fixture
def session(server: RawServer) -> Iterator[requests.Session]:
    """A session of ours that has been in use."""
    with fast_session() as session:
        warm(session, server)
        yield session


def warmed(client: ResilientServiceClient) -> ResilientServiceClient:
    number = 0
    while number < 2:
        _, number = whence(client.get("/warm"))
    return client


def passes_urllib3(call: Callable[[], requests.Response]) -> bool:
    """Whether a call runs urllib3's urlopen; found out without replacing anything."""
    called: list[bool] = []
    urlopen = HTTPConnectionPool.urlopen.__code__

    def look(frame: Any, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is urlopen:
            called.append(True)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return bool(called)


def assert_fast_again(client: ResilientServiceClient, server: RawServer) -> None:
    """What was replaced is back, and the client behaves as if nothing had happened."""
    warmed(client)
    server.take()
    assert not passes_urllib3(lambda: client.get("/after"))
    assert [each.target for each in server.take()] == ["/after"]


def test_fast_way_is_another(
    client: ResilientServiceClient, session: requests.Session, server: RawServer
) -> None:
    """The other tests can tell by urllib3's urlopen whether the fast way was taken."""
    assert not passes_urllib3(lambda: client.get("/a"))
    assert not passes_urllib3(lambda: client.post("/a", json={"a": 1}))
    assert not passes_urllib3(lambda: session.get(server.url + "/a", timeout=PATIENCE))
    assert passes_urllib3(lambda: client.get("/a", stream=True))
    with fast_session() as new:
        assert passes_urllib3(lambda: new.get(server.url + "/a", timeout=PATIENCE))


# -- responses -----------------------------------------------------------------------------------------------


def test_responses(client: ResilientServiceClient, server: RawServer) -> None:
    """Answers of responses come in place of the server's, errors too, and all calls are counted."""
    server.take()
    with responses.RequestsMock() as mocked:
        mocked.get(server.url + "/a", json={"mocked": True}, headers={"X-A": "1"})
        mocked.post(server.url + "/b", body=requests.ConnectionError("no way"))
        mocked.post(server.url + "/b", status=201)
        answer = client.get("/a")
        created = client.post("/b", json={})

        assert (answer.json(), answer.headers["X-A"]) == ({"mocked": True}, "1")
        assert (created.status_code, len(call_of(created).attempts)) == (201, 2)
        assert len(mocked.calls) == 3
    assert not server.take()
    assert_fast_again(client, server)


@responses.activate
def test_responses_as_a_decorator(client: ResilientServiceClient, server: RawServer) -> None:
    """A client used before the test began is mocked as well; what is let through reaches the server."""
    responses.get(server.url + "/a", body="mocked", status=404)
    responses.add_passthru(server.url + "/real")

    assert client.get("/a").text == "mocked"
    assert client.get("/real").text.endswith(" /real")


@responses.activate
def test_responses_that_are_missing(client: ResilientServiceClient, server: RawServer) -> None:
    """A request that nobody foresaw does not slip through to the server."""
    server.take()
    with pytest.raises(requests.ConnectionError) as caught:
        client.get("/unforeseen")

    assert "doesn't match" in str(caught.value.__cause__)
    assert not server.take()


def test_responses_with_callback_and_redirect(session: requests.Session, server: RawServer) -> None:
    """A bare session of ours follows mocked redirects and keeps mocked cookies."""
    with responses.RequestsMock() as mocked:
        mocked.get(server.url + "/a", status=302, headers={"Location": "/b", "Set-Cookie": "c=1; Path=/"})
        mocked.add_callback(
            responses.GET, server.url + "/b", lambda request: (200, {}, request.headers.get("Cookie", ""))
        )
        response = session.get(server.url + "/a", timeout=PATIENCE)

    assert (response.text, [each.status_code for each in response.history]) == ("c=1", [302])
    assert session.cookies["c"] == "1"


# -- requests-mock -------------------------------------------------------------------------------------------


def test_requests_mock(client: ResilientServiceClient, server: RawServer) -> None:
    """As a context manager: everything is mocked."""
    server.take()
    with requests_mock.Mocker() as mocked:
        mocked.get(server.url + "/a", json={"mocked": True})
        mocked.post(server.url + "/b", [{"exc": requests.ConnectTimeout}, {"status_code": 201}])

        assert client.get("/a").json() == {"mocked": True}
        assert client.post("/b", data=b"x").status_code == 201
        assert [each.method for each in mocked.request_history] == ["GET", "POST", "POST"]
        with pytest.raises(requests_mock.NoMockAddress):
            client.get("/unforeseen")
    assert not server.take()
    assert_fast_again(client, server)


def test_requests_mock_with_real_http(client: ResilientServiceClient, server: RawServer) -> None:
    """What is not mocked may be let through."""
    with requests_mock.Mocker(real_http=True) as mocked:
        mocked.get(server.url + "/a", text="mocked")

        assert client.get("/a").text == "mocked"
        assert client.get("/real").text.endswith(" /real")
    assert_fast_again(client, server)


def test_requests_mock_of_a_session(session: requests.Session, server: RawServer) -> None:
    """Only that session is mocked, no other."""
    with fast_session() as other:
        warm(other, server)
        with requests_mock.Mocker(session=session) as mocked:
            mocked.get(server.url + "/a", text="mocked")

            assert session.get(server.url + "/a", timeout=PATIENCE).text == "mocked"
            assert other.get(server.url + "/a", timeout=PATIENCE).text.endswith(" /a")
        assert session.get(server.url + "/a", timeout=PATIENCE).text.endswith(" /a")
        assert not passes_urllib3(lambda: session.get(server.url + "/a", timeout=PATIENCE))
        assert not passes_urllib3(lambda: other.get(server.url + "/a", timeout=PATIENCE))


def test_requests_mock_as_an_adapter(session: requests.Session, server: RawServer) -> None:
    """Mounted for a part of the server; the rest is as before."""
    adapter = requests_mock.Adapter()
    adapter.register_uri("GET", server.url + "/mocked/a", text="mocked")
    session.mount(server.url + "/mocked", adapter)

    assert session.get(server.url + "/mocked/a", timeout=PATIENCE).text == "mocked"
    assert session.get(server.url + "/a", timeout=PATIENCE).text.endswith(" /a")


# -- vcrpy ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default::ResourceWarning")  # of vcrpy's own connections
def test_vcr(
    client: ResilientServiceClient, registry: ServiceRegistry, server: RawServer, tmp_path: Path
) -> None:
    """A cassette records a client that was in use before, and plays back without the server."""
    cassette = str(tmp_path / "cassette.yaml")
    server.take()
    with vcr.use_cassette(cassette, record_mode="once") as recorded:
        live = [client.get("/a").text, client.post("/b", json={"b": 1}).text, client.get("/a?c=1").text]
        assert len(recorded) == 3
    assert [each.target for each in server.take()] == ["/a", "/b", "/a?c=1"]
    assert_fast_again(client, server)

    server.take()
    new = ResilientServiceClient(server.url, registry=registry, timeout=PATIENCE)
    for each in (client, new):
        with vcr.use_cassette(cassette, record_mode="none") as played:
            again = [each.get("/a").text, each.post("/b", json={"b": 1}).text, each.get("/a?c=1").text]
            assert (again, played.play_count) == (live, 3)
    assert not server.take()
    assert_fast_again(client, server)
    assert_fast_again(new, server)


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_connections_of_a_cassette_are_left_behind(
    server: RawServer, registry: ServiceRegistry, tmp_path: Path
) -> None:
    """A client first used inside a cassette talks to the server as soon as that is ejected."""
    client = ResilientServiceClient(server.url, registry=registry, timeout=PATIENCE)
    with vcr.use_cassette(str(tmp_path / "cassette.yaml")):
        recorded = [client.get("/a").text for _ in range(2)]

    assert client.get("/a").text not in recorded
    assert client.post("/b", json={}).text.endswith(" /b")
    assert_fast_again(client, server)


# -- patches by hand -----------------------------------------------------------------------------------------


def _mocked(*_args: Any, **_settings: Any) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content, response.url = 299, b"mocked", "http://mocked/"
    response.request = requests.Request("GET", "http://mocked/").prepare()
    return response


ANSWERING = [
    "requests.Session.send",
    "requests.sessions.Session.send",
    "requests.adapters.HTTPAdapter.send",
    "requests.sessions.HTTPAdapter.send",
]
WATCHED = [
    (requests.Session, "send"),
    (requests.Session, "get_adapter"),
    (HTTPAdapter, "send"),
    (HTTPAdapter, "build_response"),
    (HTTPAdapter, "get_connection_with_tls_context"),
    (HTTPConnectionPool, "urlopen"),
    (HTTPConnectionPool, "_make_request"),
    (HTTPConnection, "request"),
    (HTTPConnection, "getresponse"),
    (http.client.HTTPConnection, "putrequest"),
    (http.client.HTTPConnection, "putheader"),
    (http.client.HTTPConnection, "endheaders"),
    (http.client.HTTPConnection, "getresponse"),
    (http.client.HTTPResponse, "begin"),
    (http.client.HTTPResponse, "read"),
]


@pytest.mark.parametrize("name", ANSWERING)
def test_patched_to_answer(name: str, client: ResilientServiceClient, server: RawServer) -> None:
    """The usual targets of mock.patch."""
    server.take()
    with mock.patch(name, side_effect=_mocked) as patched:
        assert client.get("/a").status_code == 299
        assert client.post("/a", json={}).text == "mocked"
        assert patched.call_count == 2
    assert not server.take()
    assert_fast_again(client, server)


@pytest.mark.parametrize("name", ANSWERING)
def test_patched_session_to_answer(name: str, session: requests.Session, server: RawServer) -> None:
    """A bare session of ours notices as well, as far as the function is its own."""
    server.take()
    with mock.patch(name, side_effect=_mocked):
        assert session.get(server.url + "/a", timeout=PATIENCE).status_code == 299
    assert not server.take()
    assert not passes_urllib3(lambda: session.get(server.url + "/a", timeout=PATIENCE))


@pytest.mark.parametrize("name", ANSWERING)
def test_patched_to_fail(name: str, client: ResilientServiceClient, server: RawServer) -> None:
    """A mock that raises is a failed attempt."""
    with mock.patch(name, side_effect=[requests.ConnectionError("no way"), _mocked()]):
        assert len(call_of(client.get("/a")).attempts) == 2
    assert_fast_again(client, server)


@pytest.mark.parametrize(("owner", "name"), WATCHED, ids=lambda each: getattr(each, "__name__", each))
def test_watched(
    owner: type, name: str, client: ResilientServiceClient, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who puts a wrapper round a function of requests, urllib3 or http.client sees every request."""
    seen: list[str] = []
    original = getattr(owner, name)

    def watching(*args: Any, **settings: Any) -> Any:
        seen.append(name)
        return original(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, watching)
        for path in ("/a", "/b"):
            seen.clear()
            assert client.get(path).text.endswith(" " + path)
            assert seen
    assert_fast_again(client, server)


def test_wrapped_by_wraps(client: ResilientServiceClient, server: RawServer) -> None:
    """A spy that passes everything on."""
    with mock.patch.object(requests.Session, "send", autospec=True, side_effect=requests.Session.send) as spy:
        client.get("/a")
        client.get("/b")
        sent = [call.args[1] for call in spy.call_args_list]

    assert [request.url for request in sent] == [server.url + "/a", server.url + "/b"]
    assert sent[0].headers["X-Request-ID"] != sent[1].headers["X-Request-ID"]


def test_urlopen_patched_to_fail(client: ResilientServiceClient, server: RawServer) -> None:
    """Below requests too: what a patched urlopen raises is what a call meets."""
    server.take()
    name = "urllib3.connectionpool.HTTPConnectionPool.urlopen"
    with mock.patch(name, side_effect=OSError("patched")) as patched:
        with pytest.raises(requests.ConnectionError) as caught:
            client.get("/a")

        assert patched.call_count == 3
    assert "patched" in str(caught.value.__cause__)
    assert not server.take()
    assert_fast_again(client, server)


def test_replaced_class_of_connections(
    server: RawServer, registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class of connections put into urllib3's pools, as vcrpy and its like do, is used for new ones."""
    opened: list[str] = []

    class Watching(HTTPConnectionPool.ConnectionCls):  # type: ignore[name-defined,misc]
        def connect(self) -> None:
            opened.append(self.host)
            super().connect()

    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnectionPool, "ConnectionCls", Watching)
        client = ResilientServiceClient(server.url, registry=registry, timeout=PATIENCE)
        for _ in range(2):
            assert client.get("/a").text.endswith(" /a")
        assert opened == ["127.0.0.1"]
    assert_fast_again(client, server)


def test_level_of_debugging(
    client: ResilientServiceClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """http.client's debuglevel prints what is sent, on connections that are open already where stock does."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    client.get("/a")

    printed = capsys.readouterr().out
    assert "send: b'GET /a HTTP/1.1" in printed
    assert "reply: 'HTTP/1.1 200 OK" in printed


def test_log_of_urllib3(client: ResilientServiceClient, caplog: pytest.LogCaptureFixture) -> None:
    """Who listens at level DEBUG hears of every request."""
    with caplog.at_level("DEBUG", logger="urllib3"):
        client.get("/a")

    assert '"GET /a HTTP/1.1" 200' in caplog.text


# -- adapters ------------------------------------------------------------------------------------------------


class Canned(BaseAdapter):
    """An adapter that needs no server."""

    def send(self, request: requests.PreparedRequest, *_args: Any, **_settings: Any) -> requests.Response:
        response = _mocked()
        response.request, response.url = request, str(request.url)
        return response

    def close(self) -> None:
        pass


class Counting(HTTPAdapter):
    """An adapter that sends as its base does, and counts."""

    sent = 0

    def send(self, *args: Any, **settings: Any) -> requests.Response:
        self.sent += 1
        return super().send(*args, **settings)


def test_adapter_of_the_users(session: requests.Session, server: RawServer) -> None:
    """Mounted on a session that is in use: asked from then on, no more when it is taken away."""
    session.mount(server.url + "/canned", Canned())

    assert session.get(server.url + "/canned/a", timeout=PATIENCE).text == "mocked"
    assert session.get(server.url + "/a", timeout=PATIENCE).text.endswith(" /a")
    del session.adapters[server.url + "/canned"]
    assert session.get(server.url + "/canned/a", timeout=PATIENCE).text.endswith(" /canned/a")


def test_adapter_for_everything(session: requests.Session, server: RawServer) -> None:
    """In place of ours."""
    adapter = Counting()
    before = session.adapters["http://"]
    session.mount("http://", adapter)
    for number in range(3):
        session.get(f"{server.url}/{number}", timeout=PATIENCE)

    assert adapter.sent == 3
    adapter.close()
    session.mount("http://", before)
    warm(session, server)
    assert not passes_urllib3(lambda: session.get(server.url + "/a", timeout=PATIENCE))


def test_retries_of_the_adapter(session: requests.Session, server: RawServer) -> None:
    """urllib3's own retries, where somebody has set them on the adapter."""
    server.scripts["/busy"] = Script((b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",))
    adapter: Any = session.get_adapter(server.url)
    adapter.max_retries = Retry(total=2, status_forcelist=[503], backoff_factor=0)
    server.take()
    with pytest.raises(requests.exceptions.RetryError):
        session.get(server.url + "/busy", timeout=PATIENCE)

    assert len(server.take()) == 3


def test_session_of_the_users_with_its_adapter(server: RawServer, registry: ServiceRegistry) -> None:
    """A client that was given a session sends through that session's adapters, every time."""
    with requests.Session() as session:
        adapter = Counting()
        session.mount("http://", adapter)
        client = ResilientServiceClient(server.url, registry=registry, session=session)
        for _ in range(3):
            client.get("/a")

        assert adapter.sent == 3


def test_subclass_of_the_session(server: RawServer) -> None:
    """Who overrides send() of our session is called for every request."""
    base: Any = type(fast_session())

    class Watching(base):  # type: ignore[misc]
        seen: list[str] = []  # noqa: RUF012 - for one test

        def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
            self.seen.append(str(request.method))
            response: requests.Response = super().send(request, **settings)
            return response

    with Watching() as session:
        warm(session, server)
        session.post(server.url + "/a", timeout=PATIENCE)

    assert Watching.seen == ["GET", "GET", "POST"]


def test_attribute_of_the_session(session: requests.Session, server: RawServer) -> None:
    """send() replaced on one session, as some tests do."""
    session.send = _mocked  # type: ignore[method-assign]

    assert session.get(server.url + "/a", timeout=PATIENCE).status_code == 299


def test_attribute_of_the_adapter(session: requests.Session, server: RawServer) -> None:
    """send() replaced on one adapter."""
    adapter: Any = session.get_adapter(server.url)
    adapter.send = _mocked

    assert session.get(server.url + "/a", timeout=PATIENCE).status_code == 299
    del adapter.send
    assert session.get(server.url + "/a", timeout=PATIENCE).status_code == 200
