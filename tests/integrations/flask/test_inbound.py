"""What a request brings along, for the calls that are made on its behalf."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    abort,
    copy_current_request_context,
    g,
    send_file,
    stream_with_context,
)
from flask.typing import ResponseReturnValue
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from service_utils.http.context import (
    ContextThreadPoolExecutor,
    current_deadline,
    current_request_id,
    current_trace,
    propagate,
    valid_request_id,
    valid_traceparent,
    valid_tracestate,
)
from service_utils.integrations.flask import ServiceUtils, check_internal_token
from service_utils.policies.fallback import fail_open, mark_degraded
from service_utils.testing import FakeClock

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def make_app(**options: Any) -> Flask:
    """An app that tells what was bound, with a clock that stands still."""
    app = Flask("inbound")
    ServiceUtils(app, **{"clock": FakeClock(), **options})
    app.add_url_rule("/bound", "bound", bound)
    return app


def bound() -> dict[str, Any]:
    """What the client would send on, as JSON."""
    deadline = current_deadline()
    return {
        "id": current_request_id(),
        "left": None if deadline is None else deadline.remaining(),
        "trace": current_trace(),
    }


def nothing_is_bound() -> bool:
    """Whether this thread is as it is outside of any request."""
    return bound() == {"id": None, "left": None, "trace": {}}


@pytest.fixture
def app() -> Flask:
    """An app with the extension as it comes."""
    return make_app()


@pytest.fixture(autouse=True)
def nothing_lingers() -> Iterator[None]:
    """Every test leaves its thread as it found it."""
    yield
    assert nothing_is_bound()


class TestRequestId:
    def test_a_good_one_is_bound_and_echoed(self, app: Flask) -> None:
        """The caller's id is used for everything, and comes back."""
        response = app.test_client().get("/bound", headers={"X-Request-ID": "req-1"})
        assert response.get_json()["id"] == "req-1"
        assert response.headers["X-Request-ID"] == "req-1"

    def test_an_absent_one_is_made(self, app: Flask) -> None:
        """A request without an id gets one of its own, and the caller is told."""
        first, second = (app.test_client().get("/bound") for _ in range(2))
        assert first.get_json()["id"] == first.headers["X-Request-ID"]
        assert valid_request_id(first.headers["X-Request-ID"])
        assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]

    @pytest.mark.parametrize("received", ["", "a b", "x" * 129, "<script>", "a,b", "ü"])
    def test_a_malformed_one_is_replaced(self, app: Flask, received: str) -> None:
        """Nothing malformed gets into a log line or another service."""
        response = app.test_client().get("/bound", headers={"X-Request-ID": received})
        assert response.headers["X-Request-ID"] != received
        assert valid_request_id(response.headers["X-Request-ID"])

    @pytest.mark.parametrize("path", ["/nowhere", "/bug", "/refused"])
    def test_error_answers_have_it_twice(self, app: Flask, path: str) -> None:
        """A failed request has its id in the header and in the problem, whatever went wrong."""
        app.add_url_rule("/bug", "bug", lambda: str(1 // 0))
        app.add_url_rule("/refused", "refused", lambda: abort(403))
        response = app.test_client().get(path, headers={"X-Request-ID": "req-1"})
        assert response.status_code >= 400
        assert (response.get_json()["request_id"], response.headers["X-Request-ID"]) == ("req-1", "req-1")

    @given(st.text(st.characters(max_codepoint=255), max_size=200))
    def test_any_header_gives_a_valid_id(self, text: str) -> None:
        """Whatever bytes arrive, the id is valid, and it is the caller's exactly if that was valid."""
        response = FUZZED.test_client().get("/bound", environ_overrides={"HTTP_X_REQUEST_ID": text})
        assert response.status_code == 200
        told = response.headers["X-Request-ID"]
        assert valid_request_id(told)
        assert response.get_json()["id"] == told
        assert (told == text) == bool(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text))


class TestTrace:
    def test_it_is_bound(self, app: Flask) -> None:
        """The caller's trace goes on through this app."""
        headers = {"traceparent": TRACEPARENT, "tracestate": "a=1"}
        assert app.test_client().get("/bound", headers=headers).get_json()["trace"] == headers

    def test_malformed_ones_are_dropped(self, app: Flask) -> None:
        """A trace that is none is not passed on."""
        response = app.test_client().get("/bound", headers={"traceparent": "1-2-3", "tracestate": "a=1"})
        assert response.get_json()["trace"] == {}

    @given(
        st.one_of(st.text(st.characters(max_codepoint=255), max_size=80), st.just(TRACEPARENT)),
        st.text(st.characters(max_codepoint=255), max_size=80),
    )
    def test_any_headers_give_valid_ones_or_none(self, parent: str, state: str) -> None:
        """Whatever bytes arrive, only a well-formed trace is passed on."""
        overrides = {"HTTP_TRACEPARENT": parent, "HTTP_TRACESTATE": state}
        response = FUZZED.test_client().get("/bound", environ_overrides=overrides)
        trace = response.get_json()["trace"]
        expected = {}
        if valid_traceparent(parent):
            expected["traceparent"] = parent
            if valid_tracestate(state):
                expected["tracestate"] = state
        assert trace == expected


class TestDeadline:
    @pytest.fixture
    def token(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """A process with an internal token."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
        return "token-1"

    @staticmethod
    def ask(app: Flask, time_left: str, token: str | None = None) -> TestResponse:
        """Ask with so many milliseconds left."""
        headers = {"X-Request-Timeout-Ms": time_left}
        if token is not None:
            headers["X-INTERNAL-TOKEN"] = token
        return app.test_client().get("/bound", headers=headers)

    def test_a_request_has_25_seconds(self, app: Flask) -> None:
        """Below the 30 seconds after which gunicorn kills its worker."""
        assert app.test_client().get("/bound").get_json()["left"] == 25.0

    def test_an_app_can_give_another_time_or_none(self) -> None:
        """``request_deadline`` sets it; None takes it away."""
        assert make_app(request_deadline=3).test_client().get("/bound").get_json()["left"] == 3.0
        assert make_app(request_deadline=None).test_client().get("/bound").get_json()["left"] is None

    def test_one_of_ours_is_believed(self, app: Flask, token: str) -> None:
        """A caller with the internal token says how much time it has left, within our own limit."""
        assert self.ask(app, "1500", token).get_json()["left"] == 1.5
        assert self.ask(app, "40000", token).get_json()["left"] == 25.0

    def test_nobody_is_believed_beyond_a_minute(self, token: str) -> None:
        """Where an app sets no limit of its own, a believed caller may give up to 60 seconds."""
        app = make_app(request_deadline=None)
        assert self.ask(app, "40000", token).get_json()["left"] == 40.0
        assert self.ask(app, "3600000", token).get_json()["left"] == 60.0

    def test_a_stranger_is_not(self, app: Flask, token: str) -> None:
        """Others can neither lengthen nor shorten what a request has."""
        for shown in (None, "wrong"):
            for time_left in ("0", "1", "60000"):
                assert self.ask(app, time_left, shown).get_json()["left"] == 25.0

    def test_without_any_token_nobody_is(self, app: Flask) -> None:
        """Being let in because no token is configured is no proof of anything."""
        assert self.ask(app, "1500", "anything").get_json()["left"] == 25.0

    def test_an_app_can_trust_everybody(self) -> None:
        """``trust_deadline`` is for apps that only their own callers can reach."""
        assert self.ask(make_app(trust_deadline=True), "1500").get_json()["left"] == 1.5

    def test_a_token_that_cannot_be_read_is_no_proof(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken token file stops no request that needs no token; the log tells of it."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", "/nowhere/token")
        assert self.ask(app, "1500", "token-1").get_json()["left"] == 25.0
        assert "/nowhere/token" in caplog.text

    @pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "1e3", "0x10", "²", "1" * 19, "5,5"])
    def test_malformed_values_are_ignored(self, text: str) -> None:
        """What is no whole number of milliseconds is as if it had not been sent."""
        assert self.ask(make_app(trust_deadline=True), text).get_json()["left"] == 25.0

    def test_no_time_left_is_504_before_any_work(self, token: str) -> None:
        """Nobody waits any more, so nothing is begun: neither the view nor hooks registered earlier."""
        worked: list[str] = []
        app = Flask("inbound")
        app.before_request(partial(worked.append, "hook"))
        ServiceUtils(app)

        @app.get("/work")
        def work() -> str:
            worked.append("view")
            return "done"

        headers = {"X-Request-Timeout-Ms": "0", "X-INTERNAL-TOKEN": token, "X-Request-ID": "req-1"}
        response = app.test_client().get("/work", headers=headers)
        assert (response.status_code, worked) == (504, [])
        assert response.content_type == "application/problem+json"
        assert response.get_json()["request_id"] == "req-1"
        assert response.headers["X-Request-ID"] == "req-1"

    @given(st.one_of(st.text(st.characters(max_codepoint=255), max_size=30), st.integers().map(str)))
    def test_any_header_gives_a_sane_deadline(self, text: str) -> None:
        """Whatever bytes arrive, a request has between nothing and the app's own limit."""
        overrides = {"HTTP_X_REQUEST_TIMEOUT_MS": text}
        response = FUZZED.test_client().get("/bound", environ_overrides=overrides)
        if not re.fullmatch("[0-9]{1,18}", text):
            assert response.get_json()["left"] == 25.0
        elif int(text) == 0:
            assert response.status_code == 504
        else:
            assert response.get_json()["left"] == min(int(text) / 1000, 25.0)


FUZZED = make_app(trust_deadline=True)


class TestDegraded:
    def test_an_answer_of_the_first_choice_is_not_marked(self, app: Flask) -> None:
        """As long as nothing falls back, there is no header."""
        assert "X-Degraded" not in app.test_client().get("/bound").headers

    def test_an_answer_of_a_fallback_is_marked_without_names(self, app: Flask) -> None:
        """The caller sees that the answer is degraded, and not by what."""

        def full_text_search() -> str:
            return "found"

        @fail_open(fallback=full_text_search, catch=OSError)
        def search() -> str:
            raise OSError("away")

        app.add_url_rule("/search", "search", search)
        response = app.test_client().get("/search")
        assert (response.text, response.headers["X-Degraded"]) == ("found", "true")
        assert "full_text_search" not in str(response.headers)

    def test_the_mark_does_not_linger(self, app: Flask) -> None:
        """The next request in the same thread starts unmarked."""
        app.add_url_rule("/worse", "worse", worse)
        client = app.test_client()
        marked = [client.get(path).headers.get("X-Degraded") for path in ("/worse", "/bound", "/worse")]
        assert marked == ["true", None, "true"]

    def test_threads_of_the_request_count(self, app: Flask) -> None:
        """A fallback in a propagated thread marks the answer, too."""

        def view() -> str:
            with ContextThreadPoolExecutor(1) as pool:
                pool.submit(mark_degraded, "other").result(10)
            return "done"

        app.add_url_rule("/view", "view", view)
        assert app.test_client().get("/view").headers["X-Degraded"] == "true"

    def test_error_answers_can_be_marked(self, app: Flask) -> None:
        """A request that fell back and failed all the same says so."""

        def view() -> str:
            mark_degraded("other")
            raise RuntimeError("bug")

        app.add_url_rule("/view", "view", view)
        assert app.test_client().get("/view").headers["X-Degraded"] == "true"

    def test_a_stream_marks_what_fell_back_before_it(self, app: Flask) -> None:
        """The head of a stream tells of the view, not of what happens in the body."""

        def early() -> Response:
            mark_degraded("early")
            return Response(iter(["a", "b"]))

        def late() -> Response:
            def body() -> Iterator[str]:
                mark_degraded("late")
                yield "a"

            return Response(stream_with_context(body()))

        app.add_url_rule("/early", "early", early)
        app.add_url_rule("/late", "late", late)
        client = app.test_client()
        with client.get("/early") as first:
            assert first.headers.get("X-Degraded") == "true"
        response = client.get("/late")
        assert ("X-Degraded" in response.headers, response.text) == (False, "a")


def worse() -> str:
    """A view that falls back."""
    mark_degraded("other")
    return "worse"


class TestLifetime:
    @pytest.mark.parametrize("path", ["/bound", "/nowhere", "/bug", "/teardown"])
    def test_nothing_is_bound_after_the_request(self, path: str) -> None:
        """However a request ends, its thread is clean for the next one, even if a teardown function fails."""
        app = make_app()
        app.add_url_rule("/bug", "bug", lambda: str(1 // 0))
        app.add_url_rule("/teardown", "teardown", bound)
        client = app.test_client()
        if path == "/teardown":

            @app.teardown_request
            def fail(_error: BaseException | None) -> None:
                raise RuntimeError("teardown")

            with pytest.raises(RuntimeError, match="teardown"):
                client.get(path)
        else:
            client.get(path)
        assert nothing_is_bound()

    def test_nothing_is_bound_after_a_killed_request(self, app: Flask) -> None:
        """A request that ends with the thread's own end (SystemExit, a killed greenlet) leaves nothing."""

        def view() -> ResponseReturnValue:
            raise SystemExit(1)

        app.add_url_rule("/view", "view", view)
        with pytest.raises(SystemExit):
            app.test_client().get("/view")
        assert nothing_is_bound()

    def test_an_answer_of_an_earlier_hook_is_served_within_the_context(self) -> None:
        """Hooks registered before the extension see the context, and their answers carry the id."""
        app = Flask("inbound")
        seen: list[str | None] = []

        @app.before_request
        def stop() -> str:
            seen.append(current_request_id())
            return "stopped"

        @app.after_request
        def look(response: Response) -> Response:
            seen.append(current_request_id())
            return response

        @app.teardown_request
        def look_again(_error: BaseException | None) -> None:
            seen.append(current_request_id())

        ServiceUtils(app)
        response = app.test_client().get("/bound", headers={"X-Request-ID": "req-1"})
        assert (response.text, response.headers["X-Request-ID"]) == ("stopped", "req-1")
        assert seen == ["req-1", "req-1", "req-1"]

    def test_a_guard_before_each_request_answers_within_the_context(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refused caller gets its request id back."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
        app = Flask("inbound")
        app.before_request(check_internal_token)
        ServiceUtils(app)
        response = app.test_client().get("/x", headers={"X-Request-ID": "req-1"})
        assert (response.status_code, response.get_json()["request_id"]) == (401, "req-1")

    def test_a_request_inside_a_request(self, app: Flask) -> None:
        """A view that asks its own app keeps its own context, before and after."""

        def outer() -> dict[str, Any]:
            before = current_request_id()
            inner = app.test_client().get("/worse", headers={"X-Request-ID": "inner"})
            return {
                "ids": [before, inner.headers["X-Request-ID"], current_request_id()],
                "inner": inner.headers.get("X-Degraded"),
            }

        app.add_url_rule("/outer", "outer", outer)
        app.add_url_rule("/worse", "worse", worse)
        response = app.test_client().get("/outer", headers={"X-Request-ID": "outer"})
        assert response.get_json() == {"ids": ["outer", "inner", "outer"], "inner": "true"}
        assert response.headers["X-Request-ID"] == "outer"

    def test_a_request_inside_a_request_of_another_app(self, app: Flask) -> None:
        """Two apps in one process and one thread do not disturb each other."""
        other = make_app(request_deadline=3)

        def outer() -> list[Any]:
            inner = other.test_client().get("/bound", headers={"X-Request-ID": "inner"}).get_json()
            mine = bound()
            return [inner["id"], inner["left"], mine["id"], mine["left"]]

        app.add_url_rule("/outer", "outer", outer)
        response = app.test_client().get("/outer", headers={"X-Request-ID": "outer"})
        assert response.get_json() == ["inner", 3.0, "outer", 25.0]

    def test_a_test_context_inside_a_request(self, app: Flask) -> None:
        """A request context that is only pushed, as scripts do, takes nothing away from the request."""

        def view() -> dict[str, Any]:
            with app.test_request_context("/bound"):
                pass
            return bound()

        app.add_url_rule("/view", "view", view)
        response = app.test_client().get("/view", headers={"X-Request-ID": "req-1"})
        assert response.get_json()["id"] == "req-1"
        assert response.headers["X-Request-ID"] == "req-1"

    def test_a_copied_request_context(self, app: Flask) -> None:
        """A function with a copy of the request context, run in this thread or another, ends nothing."""

        def view() -> dict[str, Any]:
            copy_current_request_context(lambda: None)()
            thread = threading.Thread(target=copy_current_request_context(lambda: None))
            thread.start()
            thread.join()
            return bound()

        app.add_url_rule("/view", "view", view)
        response = app.test_client().get("/view", headers={"X-Request-ID": "req-1"})
        assert response.get_json()["id"] == "req-1"
        assert response.headers["X-Request-ID"] == "req-1"

    def test_an_app_context_round_several_requests(self, app: Flask) -> None:
        """A test that holds an app context open can send one request after another."""
        client = app.test_client()
        with app.app_context():
            ids = [client.get("/bound", headers={"X-Request-ID": f"r{n}"}).get_json()["id"] for n in range(3)]
            assert nothing_is_bound()
            assert not g.get("_service_utils_inbound")
        assert ids == ["r0", "r1", "r2"]

    def test_a_test_client_that_keeps_its_context(self, app: Flask) -> None:
        """``with app.test_client()`` works as ever, request after request."""
        with app.test_client() as client:
            for number in range(3):
                response = client.get("/bound", headers={"X-Request-ID": f"r{number}"})
                assert response.get_json()["id"] == f"r{number}"

    @pytest.mark.parametrize("wrap", [stream_with_context, iter], ids=["with context", "plain"])
    def test_a_stream_sees_the_request_to_its_end(
        self, app: Flask, wrap: Callable[[Iterator[str]], Iterator[str]]
    ) -> None:
        """The generator of a body has the request's id, time and trace, also while it cleans up."""
        seen: list[dict[str, Any]] = []

        def view() -> Response:
            def body() -> Iterator[str]:
                try:
                    for _ in range(3):
                        yield f"{current_request_id()} "
                finally:
                    seen.append(bound())

            return Response(wrap(body()))

        app.add_url_rule("/view", "view", view)
        headers = {"X-Request-ID": "req-1", "traceparent": TRACEPARENT}
        response = app.test_client().get("/view", headers=headers)
        assert response.text == "req-1 req-1 req-1 "
        assert nothing_is_bound()
        assert seen == [{"id": "req-1", "left": 25.0, "trace": {"traceparent": TRACEPARENT}}]

    def test_nothing_is_bound_between_the_steps_of_a_stream(self, app: Flask) -> None:
        """Another request may run in the same thread while a stream is being sent."""

        def view() -> Response:
            return Response(f"{current_request_id()} " for _ in range(2))

        app.add_url_rule("/view", "view", view)
        client = app.test_client()
        streams = [client.get("/view", headers={"X-Request-ID": name}).iter_encoded() for name in ("a", "b")]
        assert [next(stream) for _ in range(2) for stream in streams] == [b"a ", b"b ", b"a ", b"b "]

    def test_files_are_sent_as_ever(self, app: Flask) -> None:
        """A file is handed to the server as it is, and a list of chunks stays a list."""
        app.add_url_rule("/file", "file", lambda: send_file(__file__))
        app.add_url_rule("/list", "list", lambda: Response(["a", "b"]))
        client = app.test_client()
        with open(__file__, "rb") as file, client.get("/file") as response:
            assert response.data == file.read()
        assert client.get("/list").headers["Content-Length"] == "2"

    @pytest.mark.parametrize("wrap", [stream_with_context, iter], ids=["with context", "plain"])
    def test_an_abandoned_stream_leaves_nothing(
        self, app: Flask, wrap: Callable[[Iterator[str]], Iterator[str]]
    ) -> None:
        """When the caller hangs up in the middle of a stream, the context goes with it."""

        def view() -> Response:
            def body() -> Iterator[str]:
                try:
                    while True:
                        yield "more "
                finally:
                    ended.append(current_request_id())

            return Response(wrap(body()))

        ended: list[str | None] = []
        app.add_url_rule("/view", "view", view)
        response = app.test_client().get("/view", headers={"X-Request-ID": "req-1"})
        assert next(response.iter_encoded()) == b"more "
        response.close()
        assert ended == ["req-1"]
        assert nothing_is_bound()

    def test_a_stream_closed_by_another_thread(self, app: Flask) -> None:
        """A stream that some other thread closes sees its request there and leaves nothing behind."""
        seen: list[Any] = []

        def view() -> Response:
            def body() -> Iterator[str]:
                try:
                    yield from ("a", "b")
                finally:
                    seen.append(current_request_id())

            return Response(body())

        def close() -> None:
            response.close()
            seen.append(nothing_is_bound())

        app.add_url_rule("/view", "view", view)
        response = app.test_client().get("/view", headers={"X-Request-ID": "req-1"})
        thread = threading.Thread(target=close)
        thread.start()
        thread.join()
        assert seen == ["req-1", True]

    def test_a_request_that_is_ended_from_elsewhere(self, app: Flask) -> None:
        """A request ended in another context than the one it began in breaks nothing there."""

        def begin_and_end() -> None:
            with app.test_request_context("/bound"):
                app.preprocess_request()
                assert not nothing_is_bound()
                copy_context().run(app.do_teardown_request)

        copy_context().run(begin_and_end)

    def test_threads_of_a_view_see_the_request(self, app: Flask) -> None:
        """A view's threads have the context if they are started with ``propagate``."""

        def view() -> list[str | None]:
            seen: list[str | None] = []

            def look() -> None:
                seen.append(current_request_id())

            for thread in (threading.Thread(target=propagate(look)), threading.Thread(target=look)):
                thread.start()
                thread.join()
            return seen

        app.add_url_rule("/view", "view", view)
        assert app.test_client().get("/view", headers={"X-Request-ID": "req-1"}).get_json() == ["req-1", None]

    def test_a_request_that_fails_before_any_hook(self, app: Flask) -> None:
        """If Flask cannot even open the session, the answer is a 500 problem with an id."""

        class Broken(type(app.session_interface)):  # type: ignore[misc]
            def open_session(self, *_args: object) -> None:
                raise RuntimeError("no session")

        app.session_interface = Broken()
        response = app.test_client().get("/bound")
        assert response.status_code == 500
        assert valid_request_id(response.get_json()["request_id"])
