"""Who may call an app: the internal token and the operators' token."""

from __future__ import annotations

import hmac
import logging
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import Headers
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from service_utils.errors import TokenError
from service_utils.integrations.flask.tokens import (
    Verdict,
    check_internal_token,
    check_operator,
    ensure_token_configured,
    require_internal_token,
    set_token_verifiers,
    verify_plain_token,
)

TOKEN, PREVIOUS, ADMIN = "current-token-1", "previous-token-0", "admin-token-9"
STRANGER = "203.0.113.9"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """A process with a token."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in production."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")


def secret() -> str:
    """The view that is guarded."""
    return "the secret"


@pytest.fixture
def app() -> Flask:
    """An app with one guarded route."""
    app = Flask("guarded")
    app.add_url_rule("/secret", "secret", require_internal_token(secret))
    return app


def ask(app: Flask, given: str | None = None, peer: str = STRANGER, **headers: str) -> TestResponse:
    """Ask for the secret with a token, from an address."""
    if given is not None:
        headers["X-INTERNAL-TOKEN"] = given
    environ: dict[str, Any] = {"REMOTE_ADDR": peer}
    return app.test_client().get("/secret", headers=headers, environ_base=environ)


class TestWithAToken:
    def test_the_right_token_opens(self, app: Flask, token: str) -> None:
        """A caller with the token gets the answer, wherever it is."""
        assert ask(app, token).text == "the secret"

    def test_no_token_is_401(self, app: Flask, token: str) -> None:
        """A caller without one is told so in problem JSON, and how to authenticate."""
        response = ask(app)
        assert response.status_code == 401
        assert response.content_type == "application/problem+json"
        assert response.get_json()["detail"] == "The internal token is missing."
        assert response.headers["WWW-Authenticate"] == 'InternalToken realm="internal"'

    @pytest.mark.parametrize("wrong", ["x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "x" * 10_000])
    def test_a_wrong_token_is_401(self, app: Flask, token: str, wrong: str) -> None:
        """Nearly right is wrong; the answer repeats neither token."""
        response = ask(app, wrong)
        assert response.status_code == 401
        assert response.get_json()["detail"] == "The internal token is not valid."
        assert TOKEN not in response.text

    def test_loopback_is_no_excuse(self, app: Flask, token: str) -> None:
        """Where there is a token, callers on the same machine need it, too."""
        assert ask(app, peer="127.0.0.1").status_code == 401

    def test_the_previous_token_opens_during_a_rotation(
        self, app: Flask, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Callers that have not got the new token yet are let in as long as the old one is declared."""
        assert ask(app, PREVIOUS).status_code == 401
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_PREVIOUS", PREVIOUS)
        assert [ask(app, each).status_code for each in (TOKEN, PREVIOUS, "other")] == [200, 200, 401]

    def test_a_rotation_needs_no_restart(
        self, app: Flask, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The token of this moment counts, not that of the start."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "new-token-2")
        assert (ask(app, "new-token-2").status_code, ask(app, TOKEN).status_code) == (200, 401)

    def test_every_known_token_is_compared_in_constant_time(
        self, app: Flask, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A match with the first token does not spare the comparison with the second."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_PREVIOUS", PREVIOUS)
        compared: list[bytes] = []
        compare_digest = hmac.compare_digest

        def spy(given: bytes, known: bytes) -> bool:
            compared.append(known)
            return compare_digest(given, known)

        monkeypatch.setattr(hmac, "compare_digest", spy)
        assert ask(app, TOKEN).status_code == 200
        assert compared == [TOKEN.encode(), PREVIOUS.encode()]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40))
    def test_only_the_token_itself_is_accepted(self, token: str, text: str) -> None:
        """No other text is let in, and none is a server error."""
        headers = Headers()
        headers._list.append(("X-INTERNAL-TOKEN", text))
        expected = Verdict.ACCEPTED if text == TOKEN else Verdict.WRONG if text else Verdict.ABSENT
        assert verify_plain_token(headers) is expected

    def test_a_token_that_cannot_be_read_is_503(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a broken token file nobody gets in, and the operator reads why."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", "/nowhere/token")
        response = ask(app, TOKEN, peer="127.0.0.1")
        assert response.status_code == 503
        assert "/nowhere" not in response.text
        assert "/nowhere/token" in caplog.text

    def test_views_keep_their_names_and_arguments(self, token: str) -> None:
        """The guard passes everything on to the view."""
        app = Flask("guarded")

        @app.get("/double/<int:number>")
        @require_internal_token
        def double(number: int) -> dict[str, int]:
            """Twice as much."""
            return {"is": 2 * number}

        assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
        response = app.test_client().get("/double/4", headers={"X-INTERNAL-TOKEN": TOKEN})
        assert response.get_json() == {"is": 8}

    def test_it_guards_a_whole_app_before_each_request(self, token: str) -> None:
        """As a before_request function it guards every route, those that do not exist included."""
        app = Flask("guarded")
        app.before_request(check_internal_token)
        client = app.test_client()
        assert client.get("/nowhere").status_code == 401
        assert client.get("/nowhere", headers={"X-INTERNAL-TOKEN": TOKEN}).status_code == 404


class TestWithoutAToken:
    @pytest.mark.parametrize("profile", ["development", "testing"])
    @pytest.mark.parametrize(
        ("peer", "status"),
        [
            ("127.0.0.1", 200),
            ("127.8.8.8", 200),
            ("::1", 200),
            ("::ffff:127.0.0.1", 200),
            (STRANGER, 401),
            ("10.0.0.1", 401),
            ("::ffff:203.0.113.9", 401),
            ("fe80::1", 401),
            ("", 401),
            ("unix:", 401),
            ("localhost", 401),
        ],
    )
    def test_only_this_machine_is_let_in(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch, profile: str, peer: str, status: int
    ) -> None:
        """A developer needs no token on the own machine; everybody else is kept out."""
        monkeypatch.setenv("SERVICE_UTILS_PROFILE", profile)
        assert ask(app, peer=peer).status_code == status

    def test_forwarded_addresses_are_not_believed(self, app: Flask) -> None:
        """A header that claims to come from this machine opens nothing, nor does one close anything."""
        claim = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
        assert ask(app, **claim).status_code == 401
        assert ask(app, peer="127.0.0.1", **{"X-Forwarded-For": STRANGER}).status_code == 200

    @pytest.mark.parametrize(
        ("peer", "forwarded", "status"),
        [("127.0.0.1", STRANGER, 401), (STRANGER, "127.0.0.1", 401), ("127.0.0.1", "127.0.0.1", 200)],
    )
    def test_behind_proxyfix_both_ends_have_to_be_local(
        self, app: Flask, peer: str, forwarded: str, status: int
    ) -> None:
        """Neither a stranger behind a local proxy nor a stranger who plays one is let in."""
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
        assert ask(app, peer=peer, **{"X-Forwarded-For": forwarded}).status_code == status

    def test_a_token_nobody_can_compare_does_no_harm(self, app: Flask) -> None:
        """A local caller that does send a token is let in as one without."""
        assert ask(app, "anything", peer="127.0.0.1").status_code == 200
        assert ask(app, "anything").status_code == 401

    def test_it_warns_once_per_app(self, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
        """The log says once that callers on this machine need no token."""
        for _ in range(3):
            ask(app, peer="127.0.0.1")
        lines = [record for record in caplog.records if record.name == "service_utils"]
        assert [record.levelno for record in lines] == [logging.WARNING]
        assert "INTERNAL_SERVICE_TOKEN is not set" in lines[0].getMessage()

    def test_production_does_not_start(self, production: None) -> None:
        """Guarding a view in production without a token is refused at once, by the variable's name."""
        with pytest.raises(ValueError, match="INTERNAL_SERVICE_TOKEN"):
            require_internal_token(lambda: "never")
        with pytest.raises(ValueError, match="INTERNAL_SERVICE_TOKEN"):
            ensure_token_configured()

    def test_production_starts_with_one(self, production: None, token: str) -> None:
        """With a token it starts."""
        ensure_token_configured()

    def test_production_does_not_start_with_a_broken_one(
        self, production: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token file that cannot be read is told at the start, not at the first request."""
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", "/nowhere/token")
        with pytest.raises(TokenError, match="INTERNAL_SERVICE_TOKEN_FILE"):
            ensure_token_configured()

    def test_production_that_loses_its_token_lets_nobody_in(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the token vanishes while the app runs, not even this machine gets in."""
        monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
        assert [ask(app, TOKEN, peer=peer).status_code for peer in ("127.0.0.1", STRANGER)] == [401, 401]


class TestVerifiers:
    @staticmethod
    def by_badge(headers: Headers) -> Verdict:
        """A verifier of another kind of credentials."""
        verdicts = {None: Verdict.ABSENT, "mine": Verdict.ACCEPTED, "theirs": Verdict.WRONG_AUDIENCE}
        return verdicts.get(headers.get("X-Badge"), Verdict.WRONG)

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"X-Badge": "mine"}, 200),
            ({"X-Badge": "mine", "X-INTERNAL-TOKEN": "wrong"}, 200),
            ({"X-Badge": "forged", "X-INTERNAL-TOKEN": TOKEN}, 200),
            ({"X-Badge": "theirs"}, 403),
            ({"X-Badge": "theirs", "X-INTERNAL-TOKEN": "wrong"}, 403),
            ({"X-Badge": "forged"}, 401),
            ({}, 401),
        ],
    )
    def test_one_of_several_credentials_is_enough(
        self, app: Flask, token: str, headers: dict[str, str], status: int
    ) -> None:
        """Any accepted credential opens; one that is genuine but meant for another service is a 403."""
        set_token_verifiers(app, [verify_plain_token, self.by_badge])
        response = ask(app, **headers)
        assert response.status_code == status
        assert response.is_json == (status != 200)

    def test_a_wrong_credential_is_not_excused_by_loopback(self, app: Flask) -> None:
        """Without a plain token, a forged badge is still refused on this machine."""
        set_token_verifiers(app, [verify_plain_token, self.by_badge])
        assert ask(app, peer="127.0.0.1", **{"X-Badge": "forged"}).status_code == 401
        assert ask(app, peer="127.0.0.1").status_code == 200

    def test_each_app_has_its_own(self, app: Flask, token: str) -> None:
        """What one app accepts means nothing to another."""
        other = Flask("other")
        other.add_url_rule("/secret", "secret", require_internal_token(secret))
        set_token_verifiers(other, [self.by_badge])
        assert ask(other, **{"X-Badge": "mine"}).status_code == 200
        assert ask(app, **{"X-Badge": "mine"}).status_code == 401

    def test_bad_verifiers_are_refused(self, app: Flask) -> None:
        """None at all, or one that cannot be called, is an error at once."""
        with pytest.raises(ValueError, match="verifiers"):
            set_token_verifiers(app, [])
        with pytest.raises(TypeError, match="verifiers"):
            set_token_verifiers(app, ["secret"])  # type: ignore[list-item]


class TestOperators:
    @pytest.fixture
    def page(self) -> Flask:
        """An app with a page for operators."""
        app = Flask("page")
        app.before_request(check_operator)
        app.add_url_rule("/secret", "secret", lambda: "numbers")
        return app

    def test_outside_of_production_everybody_may_look(self, page: Flask) -> None:
        """A developer's status page asks for nothing."""
        assert ask(page).status_code == 200

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"X-INTERNAL-TOKEN": TOKEN}, 200),
            ({"X-INTERNAL-TOKEN": "wrong"}, 401),
            ({"Authorization": f"Bearer {ADMIN}"}, 200),
            ({"Authorization": f"bearer {ADMIN}"}, 200),
            ({"Authorization": f"Bearer {ADMIN}x"}, 401),
            ({"Authorization": f"Basic {ADMIN}"}, 401),
            ({"Authorization": "Bearer"}, 401),
            ({"Authorization": f"Bearer {TOKEN}"}, 401),
            ({"X-INTERNAL-TOKEN": ADMIN}, 401),
        ],
    )
    def test_production_asks_for_either_token(
        self,
        page: Flask,
        production: None,
        token: str,
        monkeypatch: pytest.MonkeyPatch,
        headers: dict[str, str],
        status: int,
    ) -> None:
        """The internal token or the admin token opens, each in its own place only."""
        monkeypatch.setenv("ADMIN_TOKEN", ADMIN)
        response = ask(page, **headers)
        assert response.status_code == status
        assert (response.headers.get("WWW-Authenticate") is None) == (status == 200)

    @pytest.mark.parametrize("admin", [None, "", "  "])
    def test_without_an_admin_token_that_way_is_closed(
        self, page: Flask, production: None, token: str, monkeypatch: pytest.MonkeyPatch, admin: str | None
    ) -> None:
        """An empty token opens nothing."""
        monkeypatch.delenv("ADMIN_TOKEN", raising=False)
        if admin is not None:
            monkeypatch.setenv("ADMIN_TOKEN", admin)
        assert ask(page, Authorization="Bearer ").status_code == 401
        assert ask(page, Authorization="Bearer").status_code == 401

    def test_nothing_configured_means_nobody(
        self, page: Flask, production: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In production without any token not even this machine may look."""
        monkeypatch.delenv("ADMIN_TOKEN", raising=False)
        assert ask(page, peer="127.0.0.1").status_code == 401

    def test_the_admin_token_works_while_the_internal_one_is_broken(
        self, page: Flask, production: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An operator can look at the very moment when the token file is gone."""
        monkeypatch.setenv("ADMIN_TOKEN", ADMIN)
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", "/nowhere/token")
        assert ask(page, Authorization=f"Bearer {ADMIN}").status_code == 200
        assert ask(page, TOKEN).status_code == 503
