"""What every local service promises, whatever it is for."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Any

import pytest
from flask import Flask, Response, jsonify
from flask.testing import FlaskClient
from pydantic import Field

from backend.services.common import Refusal, RequestModel, make_service_app, parse, parse_query
from service_utils.http.context import current_request_id

SECRET = "the-users-own-words"


class Body(RequestModel):
    name: str
    count: Annotated[int, Field(ge=0)] = 0
    share: float = 0.0


def broken() -> None:
    raise sqlite3.DatabaseError("/secret/path is malformed")


def make_app(**options: Any) -> Flask:
    app = make_service_app("sample", **{"ready": lambda: None, "max_body": 1000, **options})

    @app.post("/body")
    def body() -> Response:
        return jsonify(parse(Body).model_dump())

    @app.get("/query")
    def query() -> Response:
        return jsonify(parse_query(Body).model_dump())

    @app.get("/id")
    def request_id() -> Response:
        return jsonify(current_request_id())

    @app.get("/refused")
    def refused() -> Response:
        raise Refusal(409, "not now", field="name", headers={"Retry-After": "3"}, hint="later")

    @app.get("/bug")
    def bug() -> Response:
        raise KeyError(SECRET)

    @app.get("/locked")
    def locked() -> Response:
        raise sqlite3.OperationalError("database is locked")

    return app


@pytest.fixture
def client(token: str) -> FlaskClient:
    client = make_app().test_client()
    client.environ_base["HTTP_X_INTERNAL_TOKEN"] = token
    return client


def stranger(client: FlaskClient) -> FlaskClient:
    return client.application.test_client()


def assert_problem(response: Any, status: int, field: str | None = None) -> dict[str, Any]:
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = response.get_json(force=True)
    assert problem["status"] == status
    assert {"title", "detail", "request_id"} <= problem.keys()
    assert problem.get("field") == field
    return problem


def test_health_is_for_everybody(client: FlaskClient) -> None:
    """Health needs no token and says which service it is."""
    answer = stranger(client).get("/health")
    assert answer.get_json() == {"status": "ok", "service": "sample"}


@pytest.mark.parametrize("path", ["/health", "/health/", "/ready", "/ready/"])
def test_a_last_slash_makes_no_difference(client: FlaskClient, path: str) -> None:
    """Health and readiness answer with and without a slash at the end, without a redirect."""
    assert stranger(client).get(path).status_code == 200


def test_health_does_not_look_at_the_data(token: str) -> None:
    """A service whose data are broken is alive, but not ready."""
    client = make_app(ready=broken).test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503


def test_the_reason_for_not_being_ready_stays_in_the_log(
    token: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers learn that a service is not ready; its log knows why."""
    problem = assert_problem(make_app(ready=broken).test_client().get("/ready"), 503)
    assert "/secret/path" not in str(problem)
    assert "/secret/path is malformed" in caplog.text


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/body"), ("GET", "/id"), ("GET", "/none"), ("POST", "/health")]
)
def test_all_else_needs_the_token(client: FlaskClient, method: str, path: str) -> None:
    """Without the token there is nothing to see, not even which routes exist."""
    assert_problem(stranger(client).open(path, method=method), 401)


def test_production_does_not_start_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service in production refuses to start while no token is set."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    with pytest.raises(ValueError, match="INTERNAL_SERVICE_TOKEN"):
        make_app()


def test_unknown_route(client: FlaskClient) -> None:
    """An unknown route is a 404 in problem JSON."""
    assert_problem(client.get("/none"), 404)


def test_wrong_method(client: FlaskClient) -> None:
    """A wrong method is a 405 that names the right one."""
    answer = client.get("/body")
    assert_problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_a_body_that_fits(client: FlaskClient) -> None:
    """A body that fits the model is taken as it is."""
    answer = client.post("/body", json={"name": "n", "count": 2, "share": 1})
    assert answer.get_json() == {"name": "n", "count": 2, "share": 1.0}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": "n", "count": "2"}, "count"),
        ({"name": "n", "count": 2.5}, "count"),
        ({"name": "n", "count": True}, "count"),
        ({"name": "n", "count": -1}, "count"),
        ({"name": "n", "more": 1}, "more"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_wrong_fields_are_named(client: FlaskClient, body: Any, field: str) -> None:
    """A missing, wrong or unknown field is a 400 that names it."""
    assert_problem(client.post("/body", json=body), 400, field)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"name": "n"} x',
        b"[" * 900,
        b'{"name": "\\ud800"}',
        b'{"name": "n", "share": nan}',
    ],
)
def test_bad_json(client: FlaskClient, body: bytes) -> None:
    """A body that is no JSON is a 400, however broken it is."""
    assert_problem(client.post("/body", data=body, content_type="application/json"), 400, "body")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none(client: FlaskClient, number: str) -> None:
    """NaN and Infinity are refused."""
    body = f'{{"name": "n", "share": {number}}}'
    assert_problem(client.post("/body", data=body, content_type="application/json"), 400, "share")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_wrong_content_type(client: FlaskClient, content_type: str | None) -> None:
    """JSON that is not declared as such is refused like bad JSON."""
    answer = client.post("/body", data=b'{"name": "n"}', content_type=content_type)
    assert_problem(answer, 400, "body")


def test_wrong_values_are_not_repeated(client: FlaskClient) -> None:
    """What a user wrote does not come back in an error."""
    assert SECRET not in client.post("/body", json={"name": [SECRET]}).text


def test_too_large_body(client: FlaskClient) -> None:
    """A body over the limit is a 413 that tells the limit."""
    assert "bytes" in assert_problem(client.post("/body", json={"name": "n" * 2000}), 413, "body")["detail"]


def test_many_errors_are_cut_short(client: FlaskClient) -> None:
    """A body that is wrong in fifty places does not make fifty lines."""
    answer = client.post("/body", json={"name": "n", **{f"x{i}": 1 for i in range(50)}})
    assert len(assert_problem(answer, 400, "x0")["errors"]) == 20


def test_a_query_is_converted(client: FlaskClient) -> None:
    """Numbers in a query string are numbers to the model."""
    assert client.get("/query?name=n&count=2").get_json()["count"] == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [("count=2", "name"), ("name=a&name=b", "name"), ("name=n&count=x", "count"), ("name=n&z=1", "z")],
)
def test_wrong_queries_are_named(client: FlaskClient, query: str, field: str) -> None:
    """A missing, repeated, wrong or unknown parameter is a 400 that names it."""
    assert_problem(client.get(f"/query?{query}"), 400, field)


def test_a_refusal_is_the_answer(client: FlaskClient) -> None:
    """A refusal raised in a view carries status, field, headers and whatever else it was given."""
    answer = client.get("/refused")
    assert assert_problem(answer, 409, "name")["hint"] == "later"
    assert answer.headers["Retry-After"] == "3"


def test_a_bug_shows_nothing(client: FlaskClient) -> None:
    """An unexpected exception is a 500 without its words or its stack."""
    answer = client.get("/bug")
    assert_problem(answer, 500)
    assert SECRET not in answer.text


def test_busy_storage_can_be_tried_again(client: FlaskClient) -> None:
    """A locked or failing database is a 503 with Retry-After, so that clients retry."""
    answer = client.get("/locked")
    assert_problem(answer, 503)
    assert answer.headers["Retry-After"] == "1"


def test_the_request_id_is_the_callers(client: FlaskClient) -> None:
    """The caller's request id is bound, sent back and part of every problem."""
    answer = client.get("/id", headers={"X-Request-ID": "abc.1"})
    assert answer.get_json() == "abc.1" == answer.headers["X-Request-ID"]
    refused = client.get("/refused", headers={"X-Request-ID": "abc.2"})
    assert refused.get_json(force=True)["request_id"] == "abc.2"


def test_a_malformed_request_id_is_replaced(client: FlaskClient) -> None:
    """A malformed id gives way to one of our own."""
    answer = client.get("/id", headers={"X-Request-ID": "a b"})
    assert answer.get_json() == answer.headers["X-Request-ID"] != "a b"


def test_the_request_id_ends_with_the_request(client: FlaskClient) -> None:
    """Nothing of a request stays bound in its thread."""
    client.get("/id", headers={"X-Request-ID": "abc"})
    client.get("/bug", headers={"X-Request-ID": "abc"})
    assert current_request_id() is None


@pytest.mark.parametrize("max_body", [0, -1])
def test_max_body_is_positive(max_body: int) -> None:
    """A limit of nothing is a mistake."""
    with pytest.raises(ValueError, match=f"max_body={max_body}"):
        make_app(max_body=max_body)
