"""The admin API: looking and acting over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service_utils.testing import FaultServer
from tests.integrations.flask.operating import BEARER, TOKEN, Operated, operated

ROOT = "/admin/reliability"
READS = (
    "/overview",
    "/circuit-breakers",
    "/circuit-breakers/chroma",
    "/degradation",
    "/dlq",
    "/reports/reliability",
    "/config",
    "/audit",
)
ACTS = (
    "/circuit-breakers/chroma/reset",
    "/circuit-breakers/chroma/force-open",
    "/circuit-breakers/chroma/disable",
    "/circuit-breakers/chroma/probe",
    "/degradation/set-level",
    "/degradation/clear",
    "/dlq/retry",
    "/dlq/purge",
    "/dlq/x/retry",
)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    """An app with the admin API switched on."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    with operated() as found:
        yield found


@pytest.fixture
def http(parts: Operated) -> FlaskClient:
    """Its client."""
    return parts.app.test_client()


def get(http: FlaskClient, path: str, **more: Any) -> TestResponse:
    """Ask as an operator."""
    return http.get(ROOT + path, headers=BEARER, **more)


def post(http: FlaskClient, path: str, body: Any = None, **headers: str) -> TestResponse:
    """Act as an operator."""
    return http.post(ROOT + path, json=body, headers={**BEARER, **headers})


def trouble(response: TestResponse, status: int) -> dict[str, Any]:
    """The problem that an answer tells of."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = response.get_json()
    return found


class TestWhoMay:
    @pytest.mark.parametrize("path", [*READS, *ACTS])
    def test_nobody_without_the_token(self, http: FlaskClient, parts: Operated, path: str) -> None:
        """Neither looking nor acting, and nothing is done."""
        method = "POST" if path in ACTS else "GET"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            response = http.open(ROOT + path, method=method, headers=headers, json={"reason": "x"})
            trouble(response, 401)
            assert "Bearer" in response.headers["WWW-Authenticate"]
        assert parts.audit.entries() == []

    @pytest.mark.parametrize("value", ["", "   "])
    def test_it_is_off_without_a_token(
        self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """An empty token would let everybody in."""
        monkeypatch.setenv("ADMIN_TOKEN", value)
        for sent in (BEARER, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {value}"}):
            assert "ADMIN_TOKEN" in trouble(http.get(f"{ROOT}/config", headers=sent), 404)["detail"]

    def test_guessing_is_slow(self, http: FlaskClient, parts: Operated) -> None:
        """Ten wrong tokens, and the address waits; then it may try again."""
        for number in range(10):
            wrong = {"Authorization": f"Bearer wrong{number}"}
            trouble(http.get(f"{ROOT}/config", headers=wrong), 401)
        response = get(http, "/config")
        trouble(response, 429)
        assert response.headers["Retry-After"] == "60"
        assert (
            http.get(f"{ROOT}/config", headers=BEARER, environ_base={"REMOTE_ADDR": "10.1.1.1"}).status_code
            == 200
        )
        parts.clock.advance(60.0)  # type: ignore[attr-defined]
        assert get(http, "/config").status_code == 200

    def test_a_new_token_holds_at_once(self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment is read at each request."""
        monkeypatch.setenv("ADMIN_TOKEN", "another")
        trouble(get(http, "/config"), 401)

    def test_it_can_be_left_out(self) -> None:
        """An application without it has no such address."""
        with operated(admin=False) as parts:
            assert parts.app.test_client().get(f"{ROOT}/config", headers=BEARER).status_code == 404

    def test_it_can_be_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Below any prefix."""
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        with operated(admin_prefix="/ops/") as parts:
            assert parts.app.test_client().get("/ops/config", headers=BEARER).status_code == 200

    @pytest.mark.parametrize("prefix", ["", "/", "ops"])
    def test_a_prefix_is_a_path(self, prefix: str) -> None:
        """At the root it would take the application's own addresses."""
        with pytest.raises(ValueError, match="prefix="), operated(admin_prefix=prefix):
            pass


class TestLooking:
    @pytest.mark.parametrize("path", READS)
    def test_answers_are_json_that_nobody_keeps(self, http: FlaskClient, path: str) -> None:
        """No cache may show yesterday's circuits."""
        response = get(http, path)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        assert isinstance(response.get_json(), dict)

    def test_circuits(self, http: FlaskClient, parts: Operated) -> None:
        """All services by name, and which of them are sick."""
        parts.chroma.breaker.force_open("x")
        body = get(http, "/circuit-breakers").get_json()
        assert list(body["services"]) == ["chroma", "git"]
        assert body["open"] == ["chroma"]
        assert get(http, "/circuit-breakers/chroma").get_json()["state"] == "forced_open"

    def test_an_unknown_service(self, http: FlaskClient) -> None:
        """The answer says which there are."""
        assert "chroma, git" in trouble(get(http, "/circuit-breakers/nobody"), 404)["detail"]
        trouble(post(http, "/circuit-breakers/nobody/reset", {"reason": "x"}), 404)

    @pytest.mark.parametrize("path", READS)
    def test_no_secret_is_told(self, http: FlaskClient, parts: Operated, path: str) -> None:
        """Neither passwords of addresses, nor tokens, nor what was in a query string."""
        parts.letter(error="boom")
        text = get(http, path).text
        assert "hunter2" not in text
        assert TOKEN not in text
        assert '"annika"' not in text

    def test_config(self, http: FlaskClient) -> None:
        """Limits, times and numbers of each service."""
        chroma = get(http, "/config").get_json()["services"]["chroma"]
        assert chroma["breaker"]["failure_threshold"] == 2
        assert chroma["retry"]["max_attempts"] == 1

    def test_unknown_fields_are_refused(self, http: FlaskClient) -> None:
        """A slip of the pen in a filter would show, or purge, something else."""
        assert trouble(get(http, "/dlq?servce=git"), 400)["field"] == "servce"
        assert trouble(get(http, "/overview?x=1"), 400)["field"] == "x"
        assert trouble(get(http, "/dlq?service=a&service=b"), 400)["field"] == "service"


class TestActingOnCircuits:
    @pytest.mark.parametrize(
        ("act", "state"), [("force-open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
    )
    def test_each_act(self, http: FlaskClient, parts: Operated, act: str, state: str) -> None:
        """The answer is the new status, and the log says who did it and why."""
        if act == "reset":
            parts.chroma.breaker.force_open("before")
        response = post(
            http, f"/circuit-breakers/chroma/{act}", {"reason": "fire drill"}, **{"X-Operator": "eve"}
        )
        assert response.get_json()["state"] == state
        (entry,) = parts.audit.entries()
        assert (entry["who"], entry["address"], entry["target"]) == ("eve", "127.0.0.1", "chroma")
        assert (entry["action"], entry["why"], entry["outcome"]) == (
            f"circuit.{act.replace('-', '_')}",
            "fire drill",
            "done",
        )

    @pytest.mark.parametrize("act", ["reset", "force-open", "disable"])
    @pytest.mark.parametrize(
        "body",
        [
            None,
            {},
            {"reason": ""},
            {"reason": "  "},
            {"reason": 7},
            {"reason": "x" * 201},
            {"reason": "a\nb"},
        ],
    )
    def test_each_needs_a_reason(self, http: FlaskClient, parts: Operated, act: str, body: Any) -> None:
        """Nobody has to guess next week why it was done; without one nothing is."""
        found = trouble(post(http, f"/circuit-breakers/chroma/{act}", body), 400)
        assert found["field"] == "reason"
        assert parts.chroma.breaker.state == "closed"
        assert parts.audit.entries() == []

    def test_the_reason_may_be_in_the_query(self, http: FlaskClient, parts: Operated) -> None:
        """As a shell likes it."""
        assert post(http, "/circuit-breakers/chroma/force-open?reason=fire").status_code == 200
        assert parts.audit.entries()[0]["why"] == "fire"

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            ("{", "application/json", 400),
            ("[]", "application/json", 400),
            ("reason=x", "application/x-www-form-urlencoded", 415),
            (json.dumps({"reason": "x" * 10_000}), "application/json", 413),
            (json.dumps({"reason": "x", "more": 1}), "application/json", 400),
            ("[" * 4000, "application/json", 400),
            ('{"reason": "x"', "application/json", 400),
        ],
    )
    def test_other_bodies(
        self, http: FlaskClient, parts: Operated, body: str, kind: str, status: int
    ) -> None:
        """Each is refused in words, and nothing is done."""
        path = f"{ROOT}/circuit-breakers/chroma/force-open"
        trouble(http.post(path, data=body, content_type=kind, headers=BEARER), status)
        assert parts.chroma.breaker.state == "closed"

    def test_a_breaker_named_after_a_path(self, http: FlaskClient, parts: Operated) -> None:
        """Those of protected routes are."""
        registry = parts.app.extensions["service_utils"].registry
        breaker = registry.get_circuit_breaker("route /v1/api/chat")
        path = "/circuit-breakers/route%20%2Fv1%2Fapi%2Fchat"
        assert get(http, path).get_json()["state"] == "closed"
        assert post(http, f"{path}/force-open", {"reason": "x"}).status_code == 200
        assert breaker.state == "forced_open"

    def test_a_probe(self, monkeypatch: pytest.MonkeyPatch, fault_server: FaultServer) -> None:
        """It tells how the service is; the circuit learns nothing of it."""
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        with operated(fault_server.url) as parts:
            http = parts.app.test_client()
            parts.chroma.breaker.force_open("x")
            found = post(http, "/circuit-breakers/chroma/probe").get_json()
            assert (found["healthy"], found["status"], found["state"]) == (True, 200, "forced_open")

    def test_a_probe_that_fails(self, http: FlaskClient, parts: Operated) -> None:
        """That is an answer, too."""
        found = post(http, "/circuit-breakers/chroma/probe").get_json()
        assert (found["healthy"], found["status"]) == (False, None)
        assert "Connection refused" in found["error"]
        assert parts.chroma.breaker.get_stats()["failure_count"] == 0

    def test_a_service_without_a_health_path(self, http: FlaskClient) -> None:
        """There is nothing to probe."""
        assert "health_path" in trouble(post(http, "/circuit-breakers/git/probe"), 404)["detail"]

    def test_an_operators_name_is_one_line(self, http: FlaskClient, parts: Operated) -> None:
        """Nobody writes two entries at once."""
        trouble(post(http, "/degradation/clear", None, **{"X-Operator": "x" * 201}), 400)
        assert parts.audit.entries() == []


class TestDegradation:
    def test_setting_the_level(self, http: FlaskClient, parts: Operated) -> None:
        """As the seeds have it: level and reason in the query."""
        response = post(http, "/degradation/set-level?level=moderate&reason=maintenance")
        body = response.get_json()
        assert (body["level"], body["override"]["reason"]) == ("moderate", "maintenance")
        assert 3599 <= body["override"]["expires_in"] <= 3600
        assert parts.monitor.level.label == "moderate"
        assert parts.audit.entries()[0]["target"] == "moderate"

    @pytest.mark.parametrize(("given", "seconds"), [("60", 60.0), ("never", None), (90, 90.0)])
    def test_until_when(self, http: FlaskClient, parts: Operated, given: Any, seconds: float | None) -> None:
        """Seconds, or until it is cleared."""
        body = {"level": "severe", "reason": "x", "expires_in": given}
        override = post(http, "/degradation/set-level", body).get_json()["override"]
        assert override["expires_in"] == (None if seconds is None else pytest.approx(seconds, abs=0.01))

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "x"}, "level"),
            ({"level": "moderate"}, "reason"),
            ({"level": "awful", "reason": "x"}, "level"),
            ({"level": "minor", "reason": "x", "expires_in": 0}, "expires_in"),
            ({"level": "minor", "reason": "x", "expires_in": -1}, "expires_in"),
            ({"level": "minor", "reason": "x", "expires_in": "soon"}, "expires_in"),
        ],
    )
    def test_bad_input(self, http: FlaskClient, parts: Operated, body: Any, field: str) -> None:
        """The answer names the field, and the level stays."""
        assert trouble(post(http, "/degradation/set-level", body), 400)["field"] == field
        assert parts.monitor.level.label == "normal"

    def test_clearing(self, http: FlaskClient, parts: Operated) -> None:
        """The rules decide again."""
        parts.monitor.override("severe", reason="x", author="annika")
        assert post(http, "/degradation/clear").get_json()["level"] == "normal"
        assert parts.audit.entries()[0]["details"] == {"was_set": True}

    def test_without_a_monitor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is no level to look at or to set."""
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        with operated(degradation=None) as parts:
            http = parts.app.test_client()
            trouble(get(http, "/degradation"), 404)
            trouble(post(http, "/degradation/set-level?level=minor&reason=x"), 404)
            assert parts.audit.entries()[0]["outcome"] == "failed: NotOffered"


class TestDeadLetters:
    def test_a_page_of_letters(self, http: FlaskClient, parts: Operated) -> None:
        """Oldest first, without bodies, with the way to the next page."""
        ids = [parts.letter() for _ in range(3)]
        body = get(http, "/dlq?limit=2").get_json()
        assert [each["id"] for each in body["letters"]] == ids[:2]
        assert body["next"] == ids[1]
        assert body["stats"]["pending"] == 3
        body = get(http, f"/dlq?limit=2&after={ids[1]}").get_json()
        assert ([each["id"] for each in body["letters"]], body["next"]) == (ids[2:], None)

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=x", "limit"),
            ("limit=1.5", "limit"),
            ("status=x", "status"),
        ],
    )
    def test_bad_filters(self, http: FlaskClient, query: str, field: str) -> None:
        """The answer names them."""
        assert trouble(get(http, f"/dlq?{query}"), 400)["field"] == field

    def test_one_letter(self, http: FlaskClient, parts: Operated) -> None:
        """Its body is shown when that is asked for, and that somebody looked is on record."""
        letter = parts.letter()
        assert "body" not in get(http, f"/dlq/{letter}").get_json()
        assert parts.audit.entries() == []
        shown = get(http, f"/dlq/{letter}?body=true").get_json()
        assert json.loads(shown["body"]["content"]) == {"user": "annika"}
        assert parts.audit.entries()[0]["action"] == "dlq.read"
        trouble(get(http, "/dlq/nobody"), 404)

    def test_another_try(self, http: FlaskClient, parts: Operated) -> None:
        """No reason is needed for that."""
        letter = parts.letter()
        assert post(http, f"/dlq/{letter}/retry").get_json() == {"id": letter, "queued": True}
        trouble(post(http, "/dlq/nobody/retry"), 404)

    def test_one_that_is_too_old(self, http: FlaskClient, parts: Operated) -> None:
        """Only by force: its receiver may have forgotten the key."""
        letter = parts.letter()
        parts.clock.advance(31 * 86400.0)  # type: ignore[attr-defined]
        assert "30 days" in trouble(post(http, f"/dlq/{letter}/retry"), 409)["detail"]
        assert post(http, f"/dlq/{letter}/retry", {"force": True}).get_json()["queued"] is True

    def test_many_at_once(self, http: FlaskClient, parts: Operated) -> None:
        """Those that are dead, unless others are named."""
        parts.letter()
        assert post(http, "/dlq/retry").get_json() == {"letters": 0}
        assert post(http, "/dlq/retry", {"status": "pending", "service": "chroma"}).get_json() == {
            "letters": 1
        }

    def test_purging(self, http: FlaskClient, parts: Operated) -> None:
        """Only with a reason, and how many is on record."""
        parts.letter()
        assert trouble(post(http, "/dlq/purge"), 400)["field"] == "reason"
        assert (
            trouble(post(http, "/dlq/purge", {"reason": "x", "older_than": -1}), 400)["field"] == "older_than"
        )
        assert post(http, "/dlq/purge", {"reason": "x", "older_than": 60}).get_json() == {"letters": 0}
        assert post(http, "/dlq/purge", {"reason": "test data"}).get_json() == {"letters": 1}
        assert parts.audit.entries()[0]["details"]["letters"] == 1
        assert parts.queue.stats()["letters"] == 0

    def test_without_a_queue(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There are no letters to look at."""
        monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
        with operated(dead_letters=None) as parts:
            trouble(get(parts.app.test_client(), "/dlq"), 404)

    def test_a_file_that_cannot_be_read(
        self, http: FlaskClient, parts: Operated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503, and its path is nobody's business."""

        def broken(*_: Any, **__: Any) -> None:
            raise OSError("/secret/path: gone")

        monkeypatch.setattr(parts.queue, "list", broken)
        assert "/secret" not in trouble(get(http, "/dlq"), 503)["detail"]


def test_the_record_can_be_read(http: FlaskClient) -> None:
    """Latest first."""
    post(http, "/circuit-breakers/chroma/force-open", {"reason": "one"})
    post(http, "/circuit-breakers/chroma/reset", {"reason": "two"})
    assert [each["why"] for each in get(http, "/audit?limit=5").get_json()["entries"]] == ["two", "one"]
    assert trouble(get(http, "/audit?limit=0"), 400)["field"] == "limit"


def test_the_internal_token_looks_but_does_not_act(
    http: FlaskClient, parts: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is broken into cannot switch circuits off, nor read users' data."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "of-services")
    letter = parts.letter()
    internal = {"X-INTERNAL-TOKEN": "of-services"}
    assert http.get(f"{ROOT}/overview", headers=internal).status_code == 200
    assert http.get(f"{ROOT}/dlq/{letter}", headers=internal).status_code == 200
    trouble(http.get(f"{ROOT}/dlq/{letter}?body=true", headers=internal), 403)
    trouble(http.post(f"{ROOT}/circuit-breakers/chroma/disable?reason=x", headers=internal), 401)
    trouble(http.get(f"{ROOT}/overview", headers={"X-INTERNAL-TOKEN": "wrong"}), 401)
    monkeypatch.delenv("ADMIN_TOKEN")
    trouble(http.get(f"{ROOT}/overview", headers=internal), 404)
