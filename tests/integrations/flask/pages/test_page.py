"""The status page without a browser: who may see and do what, and what leaves the server."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service_utils import ResilientServiceClient
from service_utils.integrations.flask.pages.session import COOKIE, LASTS
from tests.integrations.flask.operating import BEARER, TOKEN, Operated, operated


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    """An app whose operators can sign in."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    with operated() as found:
        yield found


@pytest.fixture
def http(parts: Operated) -> FlaskClient:
    """A browser without scripts."""
    return parts.app.test_client()


def sign_in(http: FlaskClient, name: str = "eve", token: str = TOKEN, **more: Any) -> Any:
    """Fill in the form."""
    return http.post("/status/sign-in", data={"name": name, "token": token}, **more)


def form_token(http: FlaskClient) -> str:
    """What our forms carry."""
    found = re.search(r'name="form_token" value="(\w+)"', http.get("/status").text)
    assert found is not None
    return found.group(1)


def act(http: FlaskClient, path: str, **fields: str) -> Any:
    """Post one of our forms."""
    return http.post(f"/status{path}", data={"form_token": form_token(http), **fields})


class TestLooking:
    def test_it_shows_each_service(self, http: FlaskClient, parts: Operated) -> None:
        """State by word and shape, failures, reason."""
        parts.chroma.breaker.force_open("fire drill")
        text = http.get("/status").text
        assert "Chroma Server" in text
        assert "Forced open" in text
        assert "#shape-triangle" in text
        assert "fire drill" in text
        assert "hunter2" not in text

    def test_nothing_comes_from_elsewhere(self, http: FlaskClient) -> None:
        """And nothing may be written into it: no inline scripts, styles or frames."""
        for path in ("/status", "/status/live", "/status/static/status.js", "/status/static/status.css"):
            response = http.get(path)
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            response.close()
        text = http.get("/status").text
        assert re.findall(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|javascript:|https?://", text) == []

    def test_the_same_picture_has_the_same_etag(self, http: FlaskClient, parts: Operated) -> None:
        """Time alone changes nothing; a circuit does."""
        first = http.get("/status/live")
        parts.clock.advance(7.0)  # type: ignore[attr-defined]
        asked = {"If-None-Match": first.headers["ETag"]}
        second = http.get("/status/live", headers=asked)
        assert (second.status_code, second.data) == (304, b"")
        assert second.headers["Server-Time"] != first.headers["Server-Time"]
        parts.chroma.breaker.force_open("x")
        assert http.get("/status/live", headers=asked).status_code == 200

    def test_a_countdown_is_a_moment(self, parts: Operated, http: FlaskClient) -> None:
        """So that an open circuit's picture stays the same while the seconds go by."""
        for _ in range(2):
            with pytest.raises(OSError, match="refused"):
                parts.chroma.get("/x")
        first = http.get("/status/live")
        assert "data-until" in first.text
        parts.clock.advance(10.0)  # type: ignore[attr-defined]
        assert http.get("/status/live").headers["ETag"] == first.headers["ETag"]

    def test_words_from_outside_are_words(self, http: FlaskClient, parts: Operated) -> None:
        """Whatever a service answers or an operator writes: no markup comes of it."""
        parts.chroma.breaker.force_open("<script>alert(1)</script>")
        text = http.get("/status").text
        assert "<script>alert" not in text
        assert html.escape("<script>alert(1)</script>") in text

    def test_what_cannot_be_told_is_said(
        self, http: FlaskClient, parts: Operated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A status that fails takes the page not along."""
        monkeypatch.setattr(parts.chroma, "get_status", lambda: 1 / 0)
        response = http.get("/status")
        assert response.status_code == 200
        assert "Unknown" in response.text

    def test_without_anything_to_show(self) -> None:
        """An app with no service, no monitor and no letters has a page, too."""
        app = Flask("empty")
        from service_utils.integrations.flask import ServiceUtils
        from service_utils.registry import ServiceRegistry

        ServiceUtils(app, ServiceRegistry(), record=False)
        text = app.test_client().get("/status").text
        assert "No service is registered yet" in text
        assert "keeps none" in text
        assert "<code>ADMIN_TOKEN</code> is not set" in text

    def test_the_report_is_a_file(self, http: FlaskClient) -> None:
        """JSON, with the day in its name."""
        response = http.get("/status/report")
        assert response.headers["Content-Disposition"].startswith('attachment; filename="reliability-')
        assert response.get_json()["summary"]["services"] == 2

    def test_elsewhere_or_nowhere(self) -> None:
        """It can be moved, and left out."""
        with operated(status_page="/ops/services/") as parts:
            assert "/ops/services/live" in parts.app.test_client().get("/ops/services").text
        with operated(status_page=None) as parts:
            assert parts.app.test_client().get("/status").status_code == 404
        with pytest.raises(ValueError, match="path="), operated(status_page="/"):
            pass

    def test_below_a_prefix_of_the_server(self, parts: Operated) -> None:
        """Links and cookies follow SCRIPT_NAME."""
        http = parts.app.test_client()
        base = {"base_url": "http://localhost/app"}
        assert 'data-live-url="/app/status/live"' in http.get("/status", **base).text
        assert "Path=/app/status" in sign_in(http, **base).headers["Set-Cookie"]


class TestProduction:
    @pytest.fixture
    def http(self, parts: Operated, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
        """The same in production."""
        monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "of-services")
        return parts.app.test_client()

    def test_strangers_see_a_door(self, http: FlaskClient) -> None:
        """And nothing of the services."""
        response = http.get("/status")
        assert response.status_code == 401
        assert "Admin token" in response.text
        assert "Chroma" not in response.text
        for path in ("/status/live", "/status/report"):
            assert http.get(path).status_code == 401
        assert http.get("/status/letters").status_code == 403

    @pytest.mark.parametrize("headers", [BEARER, {"X-INTERNAL-TOKEN": "of-services"}])
    def test_a_token_in_a_header_opens(self, http: FlaskClient, headers: dict[str, str]) -> None:
        """For a proxy that knows its people, and for scripts."""
        assert "Chroma" in http.get("/status", headers=headers).text

    def test_who_has_signed_in_sees(self, http: FlaskClient) -> None:
        """The cookie is enough."""
        sign_in(http)
        assert "Chroma" in http.get("/status").text
        assert http.get("/status/live").status_code == 200

    def test_without_an_admin_token_there_is_no_door(
        self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody could sign in."""
        monkeypatch.delenv("ADMIN_TOKEN")
        response = http.get("/status")
        assert (response.status_code, response.content_type) == (401, "application/problem+json")


class TestSigningIn:
    def test_the_cookie_is_ours_alone(self, http: FlaskClient) -> None:
        """Scripts cannot read it, other sites cannot send it, and over TLS it stays there."""
        cookie = sign_in(http).headers["Set-Cookie"]
        for flag in ("HttpOnly", "SameSite=Strict", "Path=/status", f"Max-Age={LASTS}"):
            assert flag in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert "Secure" in sign_in(http, base_url="https://localhost").headers["Set-Cookie"]

    def test_a_wrong_token(self, http: FlaskClient, parts: Operated) -> None:
        """No cookie, and the attempt is on record, without the token."""
        response = sign_in(http, token="guess-guess")
        assert response.status_code == 403
        assert "Set-Cookie" not in response.headers
        (entry,) = parts.audit.entries()
        assert entry["outcome"] == "refused: wrong token"
        assert "guess-guess" not in str(entry)

    def test_guessing_is_slow(self, http: FlaskClient) -> None:
        """Ten times, then the right one has to wait, too."""
        for _ in range(10):
            assert sign_in(http, token="guess").status_code == 403
        response = sign_in(http)
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "60"

    @pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb"])
    def test_who_it_is_has_to_be_said(self, http: FlaskClient, name: str) -> None:
        """The log of actions names people."""
        assert sign_in(http, name=name).status_code == 400

    def test_it_is_over_after_a_shift(self, http: FlaskClient, parts: Operated) -> None:
        """Eight hours by the server's clock, whatever the browser keeps."""
        sign_in(http)
        value = http.get_cookie(COOKIE, path="/status").value  # type: ignore[union-attr]
        parts.clock.advance(LASTS + 1.0)  # type: ignore[attr-defined]
        headers = {"Cookie": f"{COOKIE}={value}"}
        assert parts.app.test_client().get("/status/letters", headers=headers).status_code == 403

    @pytest.mark.parametrize(
        "cookie", ["", "x", "x.y", "eyJuYW1lIjogImV2ZSJ9.", ".", "e30=." + "0" * 64, "ä.ö"]
    )
    def test_a_cookie_that_is_not_ours(self, parts: Operated, cookie: str) -> None:
        """Opens nothing."""
        headers = {"Cookie": f"{COOKIE}={cookie}".encode("latin-1", "replace").decode("latin-1")}
        assert parts.app.test_client().get("/status/letters", headers=headers).status_code == 403

    def test_a_cookie_that_was_changed(self, http: FlaskClient, parts: Operated) -> None:
        """One letter is enough."""
        sign_in(http)
        value = http.get_cookie(COOKIE, path="/status").value  # type: ignore[union-attr]
        changed = ("A" if value[3] != "A" else "B").join((value[:3], value[4:]))
        headers = {"Cookie": f"{COOKIE}={changed}"}
        assert parts.app.test_client().get("/status/letters", headers=headers).status_code == 403

    def test_a_new_admin_token_ends_all_sessions(
        self, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rotating it locks everybody out who has only the old one."""
        sign_in(http)
        assert http.get("/status/letters").status_code == 200
        monkeypatch.setenv("ADMIN_TOKEN", "another")
        assert http.get("/status/letters").status_code == 403

    def test_signing_out(self, http: FlaskClient) -> None:
        """By our form only: no other site signs somebody out."""
        sign_in(http)
        http.post("/status/sign-out", data={"form_token": "x"})
        assert http.get("/status/letters").status_code == 200
        http.post("/status/sign-out", data={"form_token": form_token(http)})
        assert http.get("/status/letters").status_code == 403


class TestActing:
    @pytest.fixture(autouse=True)
    def signed_in(self, http: FlaskClient) -> None:
        """As eve."""
        sign_in(http)

    @pytest.mark.parametrize(
        ("name", "state"), [("force-open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
    )
    def test_circuits(self, http: FlaskClient, parts: Operated, name: str, state: str) -> None:
        """Done, and on record under the name that was signed in with."""
        response = act(http, "/services/chroma", act=name, reason="drill")
        assert response.status_code == 303
        assert parts.chroma.breaker.state == state
        entry = parts.audit.entries()[0]
        assert (entry["who"], entry["why"], entry["address"]) == ("eve", "drill", "127.0.0.1")

    def test_a_probe_says_how_it_went(self, http: FlaskClient) -> None:
        """Which needs no reason."""
        response = act(http, "/services/chroma", act="probe")
        assert "Connection refused" in http.get(response.headers["Location"]).text

    @pytest.mark.parametrize(
        ("path", "fields", "status"),
        [
            ("/services/chroma", {"act": "reset", "reason": ""}, 400),
            ("/services/chroma", {"act": "explode", "reason": "x"}, 400),
            ("/services/nobody", {"act": "reset", "reason": "x"}, 404),
            ("/degradation", {"act": "set", "level": "awful", "reason": "x"}, 400),
            ("/degradation", {"act": "set", "level": "minor", "reason": "x", "expires": "ever"}, 400),
            ("/degradation", {"act": "set", "level": "minor"}, 400),
            ("/letters", {"act": "purge", "reason": ""}, 400),
            ("/letters", {"act": "burn", "reason": "x"}, 400),
            ("/letters", {"act": "purge", "reason": "x", "older_than": "9d"}, 400),
            ("/letters/nobody", {"reason": "x"}, 404),
        ],
    )
    def test_bad_input(
        self, http: FlaskClient, parts: Operated, path: str, fields: dict[str, str], status: int
    ) -> None:
        """Is said on a page with a way back; nothing has changed."""
        response = act(http, path, **fields)
        assert response.status_code == status
        assert 'role="alert"' in response.text
        assert (parts.chroma.breaker.state, parts.monitor.level.label) == ("closed", "normal")

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            ("/services/chroma", {"act": "force-open", "reason": "x"}),
            ("/degradation", {"act": "set", "level": "severe", "reason": "x"}),
            ("/letters", {"act": "purge", "reason": "x"}),
        ],
    )
    def test_a_form_of_another_site(
        self, http: FlaskClient, parts: Operated, path: str, fields: dict[str, str]
    ) -> None:
        """Without our word, with somebody else's, or sent from elsewhere: nothing is done."""
        parts.letter()
        word = form_token(http)
        other = parts.app.test_client()
        sign_in(other, name="mallory")
        for more, headers in (
            ({}, {}),
            ({"form_token": "x"}, {}),
            ({"form_token": form_token(other)}, {}),
            ({"form_token": word}, {"Sec-Fetch-Site": "cross-site"}),
            ({"form_token": word}, {"Sec-Fetch-Site": "same-site"}),
        ):
            response = http.post(f"/status{path}", data={**fields, **more}, headers=headers)
            assert response.status_code == 403
        assert parts.chroma.breaker.state == "closed"
        assert parts.monitor.level.label == "normal"
        assert parts.queue.stats()["letters"] == 1

    def test_the_level(self, http: FlaskClient, parts: Operated) -> None:
        """With an expiry, and back."""
        act(http, "/degradation", act="set", level="severe", reason="x", expires="15m")
        assert parts.monitor.level.label == "severe"
        act(http, "/degradation", act="clear", reason="over")
        assert parts.monitor.level.label == "normal"

    def test_letters(self, http: FlaskClient, parts: Operated) -> None:
        """Listed, shown without and with its body, tried again, purged."""
        letter = parts.letter()
        assert letter in http.get("/status/letters?service=chroma&status=pending").text
        assert letter not in http.get("/status/letters?service=git").text
        shown = http.get(f"/status/letters/{letter}").text
        assert "POST /snapshot" in shown
        assert "hunter2" not in shown
        assert "annika" not in shown
        assert "annika" in http.get(f"/status/letters/{letter}?body=shown").text
        assert parts.audit.entries()[0]["action"] == "dlq.read"
        assert "tried+again" in act(http, f"/letters/{letter}", reason="fixed").headers["Location"]
        act(http, "/letters", act="retry-all", status="pending", reason="fixed")
        assert parts.audit.entries()[0]["details"]["letters"] == 1
        act(http, "/letters", act="purge", status="", reason="test data")
        assert parts.queue.stats()["letters"] == 0

    def test_more_letters_than_a_page(self, http: FlaskClient, parts: Operated) -> None:
        """There is a way to the next."""
        for _ in range(51):
            last = parts.letter()
        text = http.get("/status/letters").text
        assert last not in text
        more = re.search(r'<a href="([^"]+after=[^"]+)">More</a>', text)
        assert more is not None
        assert last in http.get(html.unescape(more.group(1))).text

    def test_what_is_said_comes_from_us(self, http: FlaskClient, parts: Operated) -> None:
        """A link from elsewhere puts no words into the page of who is not signed in."""
        assert "Hello" in http.get("/status?said=Hello").text
        assert "Hello" not in parts.app.test_client().get("/status?said=Hello").text

    def test_a_store_that_fails(
        self, http: FlaskClient, parts: Operated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503 on a page; its path is nobody's business."""

        def broken(*_: Any, **__: Any) -> None:
            raise OSError("/secret/path")

        monkeypatch.setattr(parts.queue, "list", broken)
        response = http.get("/status/letters")
        assert response.status_code == 503
        assert "/secret" not in response.text


def test_an_app_with_a_token_of_its_own_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that come later are shown; strange names do no harm."""
    with operated() as parts:
        registry = parts.app.extensions["service_utils"].registry
        ResilientServiceClient("http://127.0.0.1:1", '"><img src=x>', name="odd", registry=registry)
        registry.get_circuit_breaker("a breaker/of its own")
        text = parts.app.test_client().get("/status").text
        assert "<img" not in text
        assert "a breaker/of its own" in text
        ids = re.findall(r'id="(card-[^"]+)"', text)
        assert len(ids) == len(set(ids)) == 8  # of each card and of its heading
        assert all(re.fullmatch(r"[\w-]+", each) for each in ids)


def test_a_breaker_named_after_a_path(http: FlaskClient, parts: Operated) -> None:
    """Those of protected routes are; they can be acted on, too."""
    breaker = parts.app.extensions["service_utils"].registry.get_circuit_breaker("route /v1/api/chat")
    sign_in(http)
    found = re.search(r'action="(/status/services/route[^"]+)"', http.get("/status").text)
    assert found is not None
    fields = {"form_token": form_token(http), "act": "force-open", "reason": "x"}
    assert http.post(html.unescape(found.group(1)), data=fields).status_code == 303
    assert breaker.state == "forced_open"
