"""Errors of a Flask app as problem JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import requests
import responses
from flask import Blueprint, Flask, abort, got_request_exception, make_response, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from werkzeug.exceptions import (
    ServiceUnavailable as HTTPServiceUnavailable,
)
from werkzeug.test import TestResponse

from service_utils.calls import CallRecord, EndReason
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ResponseTooLarge,
    ServiceError,
    TokenError,
)
from service_utils.http.context import bind_context, unbind_context, valid_request_id
from service_utils.integrations.flask.problems import problem, register_problem_handlers
from service_utils.testing import FakeClock

SECRET = "https://user:hunter2@billing.internal:6004/deduct?key=s3cret"


@pytest.fixture
def app() -> Flask:
    """An app whose only extra is the handlers."""
    app = Flask("shop")
    clock = FakeClock(now=datetime(2024, 1, 1, 12, tzinfo=UTC))
    register_problem_handlers(app, clock=clock)
    return app


def answer_to(app: Flask, error: Callable[[], Exception] | Exception, **kwargs: Any) -> TestResponse:
    """What the app answers when a view raises this."""

    def view() -> ResponseReturnValue:
        raise error if isinstance(error, Exception) else error()

    app.add_url_rule("/view", "view", view)
    return app.test_client().get("/view", **kwargs)


def assert_problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Check the form of a problem; return it."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.get_json()
    assert body["status"] == status
    assert isinstance(body["title"], str)
    assert isinstance(body["detail"], str)
    assert valid_request_id(body["request_id"])
    assert "Traceback" not in response.text
    return body


def echo() -> ResponseReturnValue:
    """A view that answers with the JSON it got."""
    return cast(ResponseReturnValue, request.get_json())


def http_error(status: int, headers: dict[str, str] | None = None) -> requests.HTTPError:
    """The error of a failed answer, as requests makes it."""
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    return requests.HTTPError(f"{status} for url: {SECRET}", response=response)


class TestProblem:
    def test_the_status_alone_is_enough(self, app: Flask) -> None:
        """Title and detail have the usual words of the status."""
        with app.app_context():
            body = problem(404).get_json()
        assert body["title"] == "Not Found"
        assert "not found" in body["detail"]

    def test_all_of_it_can_be_given(self, app: Flask) -> None:
        """Own words, headers and members are used as they are."""
        with app.app_context():
            response = problem(422, "No currency", "XXX is none.", headers={"X-A": "1"}, field="currency")
        assert response.status_code == 422
        assert response.headers["X-A"] == "1"
        body = response.get_json()
        del body["request_id"]
        assert body == {
            "title": "No currency",
            "status": 422,
            "detail": "XXX is none.",
            "field": "currency",
        }

    @pytest.mark.parametrize("status", [0, 200, 302, 399, 600])
    def test_other_than_error_statuses_are_refused(self, status: int) -> None:
        """A problem with a status of success would hide a bug."""
        with pytest.raises(ValueError, match=f"status={status}"):
            problem(status)

    def test_a_status_without_usual_words(self, app: Flask) -> None:
        """A status nobody has words for still has a title and a detail."""
        with app.app_context():
            body = problem(599).get_json()
        assert (body["title"], body["detail"]) == ("Error", "Error")

    def test_it_works_outside_of_any_app(self) -> None:
        """Neither an app nor a request is needed to make one."""
        assert problem(503, detail="Later.").status_code == 503

    def test_the_bound_request_id_is_told(self, app: Flask) -> None:
        """The id that the log lines have is the one the user can quote."""
        token = bind_context(request_id="bound-1")
        try:
            with app.test_request_context(headers={"X-Request-ID": "received-1"}):
                assert problem(400).get_json()["request_id"] == "bound-1"
        finally:
            unbind_context(token)

    def test_else_the_received_one_if_it_is_well_formed(self, app: Flask) -> None:
        """Without the inbound context the header serves, unless it is malformed."""
        with app.test_request_context(headers={"X-Request-ID": "received-1"}):
            assert problem(400).get_json()["request_id"] == "received-1"
        with app.test_request_context(headers={"X-Request-ID": "<script>"}):
            assert valid_request_id(problem(400).get_json()["request_id"])


class TestWerkzeugErrors:
    def test_unknown_route(self, app: Flask) -> None:
        """An address that does not exist is a 404 problem."""
        assert assert_problem(app.test_client().get("/nowhere"), 404)["title"] == "Not Found"

    def test_wrong_method_keeps_allow(self, app: Flask) -> None:
        """A 405 still says which methods are allowed."""
        app.add_url_rule("/view", "view", lambda: "", methods=["POST"])
        response = app.test_client().get("/view")
        assert_problem(response, 405)
        assert "POST" in response.headers["Allow"]

    def test_broken_json_is_told_where(self, app: Flask) -> None:
        """The sender learns at which character the JSON of the body breaks, not in debug mode only."""
        app.add_url_rule("/view", "view", echo, methods=["POST"])
        response = app.test_client().post("/view", data='{"a": ', content_type="application/json")
        assert "char 6" in assert_problem(response, 400)["detail"]

    def test_a_body_that_is_no_json(self, app: Flask) -> None:
        """A body of another type is a 415 problem."""
        app.add_url_rule("/view", "view", echo, methods=["POST"])
        assert_problem(app.test_client().post("/view", data="a=1"), 415)

    def test_a_body_that_is_too_large(self, app: Flask) -> None:
        """A body above the limit is a 413 problem."""
        app.config["MAX_CONTENT_LENGTH"] = 10
        app.add_url_rule("/view", "view", echo, methods=["POST"])
        response = app.test_client().post("/view", json={"text": "x" * 100})
        assert_problem(response, 413)

    def test_headers_of_the_error_are_kept(self, app: Flask) -> None:
        """Retry-After and WWW-Authenticate reach the caller."""
        response = answer_to(app, TooManyRequests(retry_after=7))
        assert_problem(response, 429)
        assert response.headers["Retry-After"] == "7"

    def test_a_challenge_is_kept(self, app: Flask) -> None:
        """A 401 still says how to authenticate."""
        response = answer_to(app, Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "shop"})))
        assert_problem(response, 401)
        assert response.headers["WWW-Authenticate"].startswith("Basic realm=")

    def test_own_words_are_kept(self, app: Flask) -> None:
        """What a view says with ``abort`` is the detail."""
        assert assert_problem(answer_to(app, NotFound("No project p1.")), 404)["detail"] == "No project p1."

    def test_words_that_are_no_text(self, app: Flask) -> None:
        """A description that is no string does not break the answer."""
        error = BadRequest({"a": 1})  # type: ignore[arg-type]
        assert assert_problem(answer_to(app, error), 400)["detail"] == "{'a': 1}"

    def test_a_finished_response_is_left_alone(self, app: Flask) -> None:
        """``abort`` with a response of one's own answers with that response."""
        app.add_url_rule("/a", "a", lambda: abort(make_response("as it is", 418)))
        app.add_url_rule("/b", "b", lambda: abort(404, response=make_response("own page", 404)))
        client = app.test_client()
        assert (client.get("/a").status_code, client.get("/a").text) == (418, "as it is")
        assert (client.get("/b").status_code, client.get("/b").text) == (404, "own page")

    def test_what_is_no_error_is_left_alone(self, app: Flask) -> None:
        """An exception that stands for a 304 is no problem, and neither is a redirect."""

        class NotModified(HTTPException):
            code = 304

        app.add_url_rule("/folder/", "folder", lambda: "")
        assert answer_to(app, NotModified()).status_code == 304
        assert app.test_client().get("/folder").status_code == 308

    def test_narrower_handlers_go_first(self, app: Flask) -> None:
        """An app can still answer a status in its own way."""
        app.register_error_handler(404, lambda error: ("my own 404", 404))
        assert app.test_client().get("/nowhere").text == "my own 404"

    def test_errors_in_blueprints_count_too(self, app: Flask) -> None:
        """A blueprint needs no handlers of its own."""
        pages = Blueprint("pages", "pages")
        pages.add_url_rule("/page", "page", lambda: abort(409))
        app.register_blueprint(pages)
        assert_problem(app.test_client().get("/page"), 409)

    def test_head_has_no_body(self, app: Flask) -> None:
        """HEAD gets the status and the type without the text."""
        response = app.test_client().head("/nowhere")
        assert (response.status_code, response.data) == (404, b"")
        assert response.content_type == "application/problem+json"


class TestServiceErrors:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (CircuitOpenError("Billing", 3.0), 503),
            (BulkheadFullError("full", service="Billing"), 503),
            (RateLimitedError("too fast", service="Billing"), 503),
            (TokenError("no token", service="Billing"), 503),
            (ResponseTooLarge("too large", service="Billing", limit=1), 503),
            (ServiceError("broken", service="Billing"), 503),
            (requests.ConnectionError(SECRET), 503),
            (requests.exceptions.SSLError(SECRET), 503),
            (requests.exceptions.ChunkedEncodingError(SECRET), 503),
            (requests.exceptions.JSONDecodeError("no JSON", "x", 0), 503),
            (requests.RequestException(SECRET), 503),
            (requests.HTTPError(SECRET), 503),
            (http_error(500), 503),
            (http_error(503), 503),
            (DeadlineExceeded("late", service="Billing"), 504),
            (requests.ReadTimeout(SECRET), 504),
            (requests.ConnectTimeout(SECRET), 504),
            (http_error(400), 502),
            (http_error(404), 502),
            (http_error(429), 502),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
    )
    def test_each_kind_has_its_status(self, app: Flask, error: Exception, status: int) -> None:
        """Away is 503, too slow is 504, a request the service calls wrong is 502; nothing inside is told."""
        response = answer_to(app, error)
        assert_problem(response, status)
        assert ("Retry-After" in response.headers) == (status == 503)
        everything = response.text + str(response.headers)
        for secret in ("hunter2", "s3cret", "internal", ":6004", "http"):
            assert secret not in everything.lower()

    @pytest.mark.parametrize(
        "error",
        [
            requests.exceptions.MissingSchema("no scheme"),
            requests.exceptions.InvalidURL("bad"),
            requests.exceptions.InvalidHeader("bad"),
            requests.exceptions.InvalidJSONError("bad"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_our_own_mistake_is_a_500(
        self, app: Flask, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A call that was wrong by itself is this app's bug: logged as one, and no service is blamed."""
        response = answer_to(app, error)
        assert_problem(response, 500)
        assert "Retry-After" not in response.headers
        assert any(record.exc_info for record in caplog.records)

    def test_the_service_is_named(self, app: Flask) -> None:
        """The user reads which part of the product is away."""
        response = answer_to(app, CircuitOpenError("Billing", 3.0))
        assert assert_problem(response, 503)["detail"] == "Billing is unavailable at the moment."

    def test_the_service_is_named_from_the_call_record(self, app: Flask) -> None:
        """An exception of requests' own that left a client knows its service, too."""
        error = http_error(404)
        record = CallRecord("Git", "git", "GET", "/x", (), None, None, EndReason.NOT_RETRYABLE)
        error.call = record  # type: ignore[attr-defined]
        assert assert_problem(answer_to(app, error), 502)["detail"] == "Git refused the request."

    def test_a_service_without_a_name(self, app: Flask) -> None:
        """Without a client there is no name to tell."""
        response = answer_to(app, requests.ConnectionError("refused"))
        detail = "A service that this one depends on is unavailable at the moment."
        assert assert_problem(response, 503)["detail"] == detail

    @pytest.mark.parametrize(
        ("seconds", "header"),
        [
            (3.2, "4"),
            (60, "60"),
            (0.0, "1"),
            (0.01, "1"),
            (None, "5"),
            (math.inf, "5"),
            (math.nan, "5"),
        ],
    )
    def test_retry_after_is_whole_and_at_least_one(
        self, app: Flask, seconds: float | None, header: str
    ) -> None:
        """The circuit's cool-down is told in whole seconds, rounded up; five where nobody can say."""
        error = ServiceError("away", service="Billing", retry_after=seconds)
        assert answer_to(app, error).headers["Retry-After"] == header

    @pytest.mark.parametrize(
        ("value", "header"),
        [("9", "9"), ("0", "1"), ("Mon, 01 Jan 2024 12:00:30 GMT", "30"), ("soon", "5"), ("-3", "5")],
    )
    def test_the_services_own_retry_after_is_passed_on(self, app: Flask, value: str, header: str) -> None:
        """What the service asked for reaches the user, seconds and dates alike; nonsense does not."""
        error = http_error(503, {"Retry-After": value})
        assert answer_to(app, error).headers["Retry-After"] == header

    def test_retry_after_with_a_rate_limit_or_a_timeout(self, app: Flask) -> None:
        """Where a 502 or 504 comes with a known waiting time, it is passed on."""
        assert answer_to(app, http_error(429, {"Retry-After": "9"})).headers["Retry-After"] == "9"
        other = Flask("other")
        register_problem_handlers(other)
        assert answer_to(other, DeadlineExceeded("late", retry_after=2.5)).headers["Retry-After"] == "3"

    def test_a_plain_requests_call_in_a_view(self, app: Flask) -> None:
        """The handlers serve code that has not moved to the client yet."""
        app.add_url_rule("/view", "view", lambda: requests.get("http://chroma/query", timeout=1).text)
        with responses.RequestsMock() as mock:
            mock.get("http://chroma/query", body=requests.ConnectTimeout("slow"))
            assert_problem(app.test_client().get("/view"), 504)


class TestUnexpectedErrors:
    @pytest.fixture(params=["plain", "TESTING", "DEBUG"])
    def mode(self, request: pytest.FixtureRequest, app: Flask) -> str:
        """The app as it is, under test, and in debug mode."""
        if request.param != "plain":
            app.config[request.param] = True
        return str(request.param)

    def test_nothing_is_told_outside_and_all_of_it_in_the_log(
        self, app: Flask, mode: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In every mode a bug is a 500 problem without details, and its trace is in the log with the id."""
        response = answer_to(app, RuntimeError("hunter2"), headers={"X-Request-ID": "req-7"})
        body = assert_problem(response, 500)
        assert "hunter2" not in response.text
        assert body["request_id"] == "req-7"
        assert any("hunter2" in (record.exc_text or "") for record in caplog.records)
        assert "req-7" in caplog.text

    def test_tools_that_collect_errors_are_told(self, app: Flask) -> None:
        """Flask's signal for unhandled exceptions is sent as ever."""
        seen: list[BaseException] = []

        def collect(sender: Flask, exception: BaseException, **_extra: object) -> None:
            seen.append(exception)

        with got_request_exception.connected_to(collect, app):
            answer_to(app, RuntimeError("bug"))
        assert [str(each) for each in seen] == ["bug"]

    def test_propagation_can_be_asked_for(self) -> None:
        """An app that sets PROPAGATE_EXCEPTIONS gets its exceptions, as Flask promises."""
        app = Flask("shop")
        app.config["PROPAGATE_EXCEPTIONS"] = True
        register_problem_handlers(app)
        with pytest.raises(RuntimeError, match="bug"):
            answer_to(app, RuntimeError("bug"))

    def test_an_error_in_an_error_handler(self, app: Flask) -> None:
        """A handler with a bug of its own is a 500 problem, too."""

        def broken(error: KeyError) -> ResponseReturnValue:
            raise RuntimeError("hunter2")

        app.register_error_handler(KeyError, broken)
        response = answer_to(app, KeyError("x"))
        assert_problem(response, 500)
        assert "hunter2" not in response.text

    def test_a_view_without_an_answer(self, app: Flask) -> None:
        """A view that returns nothing is a 500 problem."""
        app.add_url_rule("/view", "view", lambda: None)  # type: ignore[arg-type]
        assert_problem(app.test_client().get("/view"), 500)

    def test_an_explicit_500_is_not_logged_as_a_bug(
        self, app: Flask, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``abort(500)`` is a decision, not an accident."""
        caplog.set_level(logging.DEBUG)
        app.add_url_rule("/view", "view", lambda: abort(500, "Out of ink."))
        assert assert_problem(app.test_client().get("/view"), 500)["detail"] == "Out of ink."
        assert not caplog.records

    def test_werkzeugs_own_503_keeps_its_words(self, app: Flask) -> None:
        """A 503 of the app's own is not mistaken for a service's."""
        body = assert_problem(answer_to(app, HTTPServiceUnavailable("Closed for repairs.")), 503)
        assert body["detail"] == "Closed for repairs."
