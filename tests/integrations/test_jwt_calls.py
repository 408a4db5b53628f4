"""Signed tokens between a client and a guarded app: who gets in, and what a refused client does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, request
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import TestResponse, run_wsgi_app

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.integrations.flask import ServiceUtils, ensure_token_configured, require_internal_token
from service_utils.integrations.flask.tokens import verify_plain_token
from service_utils.integrations.jwt import KeyFile, KeySet, SignedToken, TokenVerifier, new_jwk, public_jwk
from service_utils.testing import FakeClock
from tests.side_by_side import together

THREADS = 16
OLD, NEW, STRANGE = new_jwk("old"), new_jwk("new", "HS256"), new_jwk("old")
PLAIN = "the-plain-token"


def known(*keys: dict[str, str]) -> KeySet:
    """A set of these keys."""
    return KeySet.from_jwks({"keys": list(keys)})


def guarded(clock: FakeClock, *keys: dict[str, str], plain: bool = True) -> Flask:
    """Billing, with one guarded route, which takes signed tokens and perhaps plain ones."""
    app = Flask("billing")
    signed = TokenVerifier(known(*keys), "billing", clock=clock)
    verifiers = [verify_plain_token, signed] if plain else [signed]
    ServiceUtils(app, ServiceRegistry(), token_verifiers=verifiers, clock=clock)
    app.add_url_rule("/secret", "secret", require_internal_token(lambda: {"told": True}))
    return app


def ask(app: Flask, token: str | None, peer: str = "203.0.113.9") -> TestResponse:
    """Ask for the secret."""
    headers = {} if token is None else {"X-INTERNAL-TOKEN": token}
    return app.test_client().get("/secret", headers=headers, environ_base={"REMOTE_ADDR": peer})


def token(clock: FakeClock, key: dict[str, str] = OLD, audience: str = "billing") -> str:
    """The backend's token for a service."""
    return SignedToken(known(key), "backend", clock=clock).headers(audience)["X-INTERNAL-TOKEN"]


def test_who_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed or plain opens; missing, forged or expired is 401; for another service 403; all problem JSON."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", PLAIN)
    clock = FakeClock()
    app, late = guarded(clock, public_jwk(OLD)), token(clock)
    clock.advance(71)
    answers = {
        "signed": ask(app, token(clock)),
        "plain": ask(app, PLAIN),
        "missing": ask(app, None),
        "forged": ask(app, token(clock, STRANGE)),
        "expired": ask(app, late),
        "for another": ask(app, token(clock, audience="git")),
        "nonsense": ask(app, "e30." + late),
    }
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {
        "signed": 200,
        "plain": 200,
        "missing": 401,
        "forged": 401,
        "expired": 401,
        "for another": 403,
        "nonsense": 401,
    }
    for answer in answers.values():
        if answer.status_code != 200:
            assert answer.mimetype == "application/problem+json"
            assert "ey" not in answer.json["detail"]
    assert "WWW-Authenticate" in answers["expired"].headers


def test_an_expired_token_for_another_service_is_a_401() -> None:
    """403 means that the caller is somebody; a token that is over is nobody's."""
    clock = FakeClock()
    app, late = guarded(clock, OLD), token(clock, audience="git")
    clock.advance(71)
    assert ask(app, late).status_code == 401


def test_an_app_with_keys_lets_nobody_in_without_a_token() -> None:
    """That callers on this machine need no token while there is none ends with the first key."""
    assert ask(guarded(FakeClock(), OLD), None, peer="127.0.0.1").status_code == 401


def test_keys_in_the_environment_end_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys but no verifier for them an app is closed, not open."""
    app = Flask("forgotten")
    app.add_url_rule("/secret", "secret", require_internal_token(lambda: "told"))
    assert ask(app, None, peer="127.0.0.1").status_code == 200
    monkeypatch.setenv("INTERNAL_TOKEN_KEYS_FILE", "/run/secrets/keys.json")
    assert ask(app, None, peer="127.0.0.1").status_code == 401


def test_production_starts_with_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A production that signs all its calls needs no plain token besides."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    with pytest.raises(ValueError, match="INTERNAL_SERVICE_TOKEN"):
        ensure_token_configured()
    monkeypatch.setenv("INTERNAL_TOKEN_KEYS", json.dumps({"keys": [OLD]}))
    ensure_token_configured()


def test_keys_that_cannot_be_read_let_nobody_in(tmp_path: Path) -> None:
    """An app that cannot tell good from bad says that it cannot: 503, and no word of why."""
    app = Flask("lost")
    verifier = TokenVerifier(KeyFile(tmp_path / "nowhere.json"), "billing")
    ServiceUtils(app, ServiceRegistry(), token_verifiers=[verifier])
    app.add_url_rule("/secret", "secret", require_internal_token(lambda: "told"))
    answer = ask(app, token(FakeClock()))
    assert answer.status_code == 503
    assert "nowhere" not in answer.text


def test_a_request_is_judged_once() -> None:
    """However many parts of an app ask about a request, its signature is checked once."""
    clock, judged = FakeClock(), []
    app = guarded(clock, OLD)
    app.extensions["service_utils.token_verifiers"] = (
        lambda headers: judged.append(1) or TokenVerifier(known(OLD), "billing", clock=clock)(headers),
    )
    headers = {"X-INTERNAL-TOKEN": token(clock), "X-Request-Timeout-Ms": "5000"}
    for number in (1, 2):
        assert app.test_client().get("/secret", headers=headers).status_code == 200
        assert len(judged) == number


def test_an_app_within_an_app_judges_for_itself() -> None:
    """A request that one app hands on to another is judged by each of them with its own eyes."""
    clock = FakeClock()
    inner, outer = guarded(clock, OLD), Flask("outer")
    theirs = TokenVerifier(known(OLD), "outer", clock=clock)
    ServiceUtils(outer, ServiceRegistry(), token_verifiers=[theirs])

    def hand_on() -> object:
        return run_wsgi_app(inner, {**request.environ, "PATH_INFO": "/secret"})[1].split()[0]

    outer.add_url_rule("/secret", "secret", require_internal_token(hand_on))
    answer = ask(outer, token(clock, audience="outer"))
    assert (answer.status_code, answer.text) == (200, "403")


class _Quiet(WSGIRequestHandler):
    def log(self, *_args: object, **_kwargs: object) -> None:
        """Access lines are of no use here."""


@pytest.fixture
def rotated() -> Iterator[tuple[str, list[int]]]:
    """Billing, after it has forgotten the old key; the address, and the statuses it has answered with."""
    statuses: list[int] = []
    app = Flask("billing")
    verifier = TokenVerifier(known(NEW), "billing")
    ServiceUtils(app, ServiceRegistry(), token_verifiers=[verifier])
    crowd = threading.Barrier(THREADS, timeout=20)

    def refused_together(response: object) -> object:
        statuses.append(response.status_code)  # type: ignore[attr-defined]
        if response.status_code == 401:  # type: ignore[attr-defined]
            crowd.wait()  # nobody hears of it before all have been turned away
        return response

    app.after_request(refused_together)  # type: ignore[arg-type]
    app.add_url_rule("/secret", "secret", require_internal_token(lambda: {"told": True}))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}", statuses
    server.shutdown()
    thread.join(20)
    server.server_close()


class _Counted(SignedToken):
    """A provider that counts how often it makes its tokens anew."""

    refreshed = 0

    def refresh(self, name: str) -> bool:
        self.refreshed += 1
        return super().refresh(name)


def test_one_refresh_for_all_threads(rotated: tuple[str, list[int]], tmp_path: Path) -> None:
    """When all threads are refused at one moment, one of them reads the new keys and all get through."""
    address, statuses = rotated
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [OLD]}))
    standing_still = FakeClock()  # so that no look at the file is due by itself
    provider = _Counted(KeyFile(path, clock=standing_still), "backend")
    options = {"token_provider": provider, "registry": ServiceRegistry(), "max_retries": 1}
    with ResilientServiceClient(address, "Billing", name="billing", **options) as client:
        provider.headers("billing")
        path.write_text(json.dumps({"keys": [NEW]}))
        answers = together(THREADS, lambda _: client.get("/secret").status_code)
    assert answers == [200] * THREADS
    assert sorted(statuses) == [200] * THREADS + [401] * THREADS
    assert provider.refreshed == 1
