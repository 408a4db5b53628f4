"""Who is let in, as whom, and who is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flask.testing import FlaskClient

from backend.app import create_app
from backend.auth import authenticator, issue_token
from backend.config import Settings
from backend.services.common import Refusal
from service_utils.profiles import PROFILES

SECRET = "a secret of more than thirty-two bytes"
DEVELOPMENT, PRODUCTION = PROFILES["development"], PROFILES["production"]


def claims(**changes: Any) -> dict[str, Any]:
    given = {"sub": "alice", "exp": datetime.now(UTC) + timedelta(hours=1), **changes}
    return {name: value for name, value in given.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm)


def unsigned(**changes: Any) -> str:
    return jwt.encode(claims(**changes), None, algorithm="none")  # type: ignore[arg-type]


def tampered() -> str:
    head, _, signature = token().split(".")
    body = base64.urlsafe_b64encode(json.dumps({"sub": "root", "exp": 2**33}).encode()).decode().rstrip("=")
    return f"{head}.{body}.{signature}"


def user_of(authorization: str | None, **settings: Any) -> str:
    return authenticator(Settings(**settings or {"auth_jwt_secret": SECRET}), PRODUCTION)(authorization)


def keys() -> dict[str, Any]:
    return {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
    }


def public(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("user", ["alice", "a", "A.b_c-d@example.org", "x" * 64])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_valid_token_names_the_user(user: str, scheme: str) -> None:
    """The sub of a valid token is the user."""
    assert user_of(scheme + token(sub=user)) == user


WRONG: dict[str, Callable[[], str | None]] = {
    "nothing": lambda: None,
    "empty": lambda: "",
    "no token": lambda: "Bearer",
    "blank token": lambda: "Bearer ",
    "other scheme": lambda: "Basic YWxpY2U6c2VjcmV0",
    "two tokens": lambda: "Bearer a b",
    "no JWT": lambda: "Bearer nonsense",
    "no JSON": lambda: "Bearer a.b.c",
    "not ASCII": lambda: "Bearer ä",
    "expired": lambda: f"Bearer {token(exp=datetime.now(UTC) - timedelta(minutes=1))}",
    "no exp": lambda: f"Bearer {token(exp=None)}",
    "exp is no number": lambda: f"Bearer {token(exp='tomorrow')}",
    "exp is a list": lambda: f"Bearer {token(exp=[2**33])}",
    "too early": lambda: f"Bearer {token(nbf=datetime.now(UTC) + timedelta(minutes=1))}",
    "nbf is no number": lambda: f"Bearer {token(nbf={})}",
    "no sub": lambda: f"Bearer {token(sub=None)}",
    "empty sub": lambda: f"Bearer {token(sub='')}",
    "long sub": lambda: f"Bearer {token(sub='x' * 65)}",
    "slash in sub": lambda: f"Bearer {token(sub='a/b')}",
    "space in sub": lambda: f"Bearer {token(sub='a b')}",
    "line end in sub": lambda: "Bearer " + token(sub="a\n"),
    "other audience": lambda: f"Bearer {token(aud='another service')}",
    "other secret": lambda: f"Bearer {token(key='another secret of more than 32 bytes')}",
    "other algorithm": lambda: f"Bearer {token(algorithm='HS512', key='x' * 64)}",
    "same secret, other algorithm": lambda: f"Bearer {token(algorithm='HS384', key=SECRET * 2)}",
    "not signed": lambda: f"Bearer {unsigned()}",
    "tampered": lambda: f"Bearer {tampered()}",
}


@pytest.mark.parametrize("flaw", WRONG)
def test_everything_else_is_401(flaw: str) -> None:
    """Whatever is wrong with a token, nobody is let in, and the challenge says how to do better."""
    with pytest.raises(Refusal) as refused:
        user_of(WRONG[flaw]())

    assert refused.value.status == 401
    assert refused.value.headers is not None
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")


def test_audience_and_issuer_can_be_asked_for() -> None:
    """With AUTH_JWT_AUDIENCE and AUTH_JWT_ISSUER only tokens made for us, by them, are accepted."""
    settings = {"auth_jwt_secret": SECRET, "auth_jwt_audience": "us", "auth_jwt_issuer": "them"}

    assert user_of(f"Bearer {token(aud='us', iss='them')}", **settings) == "alice"
    for wrong in (token(), token(aud="us"), token(iss="them"), token(aud="you", iss="them")):
        with pytest.raises(Refusal):
            user_of(f"Bearer {wrong}", **settings)


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA", "ES256"])
@pytest.mark.parametrize("form", ["pem", "one line", "file"])
def test_public_key_checks_its_own_algorithm(tmp_path: Path, algorithm: str, form: str) -> None:
    """A public key, in the variable or in a file, accepts what its private key has signed."""
    key = keys()[algorithm]
    pem = public(key)
    (tmp_path / "key.pem").write_text(pem)
    given = {"pem": pem, "one line": pem.replace("\n", "\\n"), "file": str(tmp_path / "key.pem")}[form]

    assert user_of(f"Bearer {token(key, algorithm)}", auth_jwt_public_key=given) == "alice"


def test_public_key_is_never_taken_for_a_secret() -> None:
    """Who knows only the public key cannot make a token with it."""
    key = keys()["RS256"]
    signed = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps({"sub": "root", "exp": 2**33}).encode()).rstrip(b"=").decode()
    mac = hmac.new(public(key).encode(), f"{signed}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{signed}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    with pytest.raises(Refusal):
        user_of(f"Bearer {forged}", auth_jwt_public_key=public(key))


def test_tokens_of_another_kind_of_key_are_refused() -> None:
    """The key alone decides the algorithm."""
    pem = public(keys()["ES256"])
    for algorithm, key in keys().items():
        with pytest.raises(Refusal):
            user_of(f"Bearer {token(key, algorithm)}", auth_jwt_public_key=pem)


def test_development_without_a_secret_knows_one_user(caplog: pytest.LogCaptureFixture) -> None:
    """For trying out, everybody is `dev`, which the log points out."""
    with caplog.at_level(logging.WARNING):
        authenticate = authenticator(Settings(), DEVELOPMENT)

    assert {authenticate(None), authenticate("Bearer nonsense")} == {"dev"}
    assert "No AUTH_JWT_SECRET is set" in caplog.text


def private_pem() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


BAD_KEYS: dict[str, tuple[Callable[[], dict[str, str]], str]] = {
    "none": (dict, "needs AUTH_JWT_SECRET or AUTH_JWT_PUBLIC_KEY"),
    "short": (lambda: {"auth_jwt_secret": "short"}, "AUTH_JWT_SECRET: must have at least 32 bytes"),
    "both": (lambda: {"auth_jwt_secret": SECRET, "auth_jwt_public_key": "x"}, "both set"),
    "no file": (lambda: {"auth_jwt_public_key": "/nowhere/key.pem"}, "'/nowhere/key.pem': cannot be read"),
    "no PEM": (lambda: {"auth_jwt_public_key": "-----BEGIN nonsense"}, "no PEM public key"),
    "private": (lambda: {"auth_jwt_public_key": private_pem()}, "no PEM public key"),
    "weak RSA": (
        lambda: {
            "auth_jwt_public_key": public(rsa.generate_private_key(public_exponent=65537, key_size=1024))
        },
        "must be RSA with at least 2048 bits",
    ),
    "other curve": (
        lambda: {"auth_jwt_public_key": public(ec.generate_private_key(ec.SECP384R1()))},
        "must be RSA with at least 2048 bits",
    ),
}


@pytest.mark.parametrize("flaw", BAD_KEYS)
def test_production_refuses_to_start_with_a_bad_key(flaw: str) -> None:
    """A missing, weak or unreadable key is found when the app starts; the message never shows it."""
    settings, message = BAD_KEYS[flaw]
    with pytest.raises(ValueError, match=message) as refused:
        authenticator(Settings(**settings()), PRODUCTION)  # type: ignore[arg-type]

    assert "short" not in str(refused.value)
    assert "PRIVATE" not in str(refused.value)


def test_development_only_warns_of_a_short_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Trying out needs no strong secret."""
    authenticate = authenticator(Settings(auth_jwt_secret="short"), DEVELOPMENT)

    with pytest.warns(jwt.InsecureKeyLengthWarning):
        assert authenticate("Bearer " + issue_token(Settings(auth_jwt_secret="short"), "bob", 1)) == "bob"
    assert "at least 32 bytes (the value is not shown)" in caplog.text


def test_secrets_are_not_in_reprs() -> None:
    """Neither the settings nor what checks tokens shows the secret."""
    settings = Settings(auth_jwt_secret=SECRET)

    assert SECRET not in repr(settings) + repr(authenticator(settings, PRODUCTION))


@pytest.mark.parametrize(
    ("user", "hours"), [("", 1), ("a b", 1), ("x" * 65, 1), ("bob", 0), ("bob", -1), ("bob", float("nan"))]
)
def test_no_token_is_issued_for_nonsense(user: str, hours: float) -> None:
    """A token that would be refused is not made."""
    with pytest.raises(ValueError, match=r"user=|hours="):
        issue_token(Settings(auth_jwt_secret=SECRET), user, hours)


@pytest.fixture
def guarded(settings: dict[str, Any]) -> FlaskClient:
    """A backend that asks for tokens."""
    return create_app({**settings, "AUTH_JWT_SECRET": SECRET}).test_client()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/api/search"),
        ("POST", "/v1/api/chat"),
        ("POST", "/v1/api/documents"),
        ("POST", "/v1/api/billing/deduct"),
        ("GET", "/v1/api/billing/balance"),
        ("GET", "/v1/api/projects/p1/history"),
        ("GET", "/v1/api/projects/p1/files/a.txt"),
    ],
)
def test_every_route_asks_for_a_token(guarded: FlaskClient, method: str, path: str) -> None:
    """Before anything else is looked at, the user has to be known."""
    response = guarded.open(path, method=method, data="nonsense")

    assert (response.status_code, response.mimetype) == (401, "application/problem+json")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_user_pays_from_his_own_account(guarded: FlaskClient) -> None:
    """The balance is that of the user in the token."""
    for user, amount in (("alice", 5), ("bob", 7)):
        headers = {"Authorization": f"Bearer {token(sub=user)}"}
        guarded.post("/v1/api/billing/deduct", json={"amount": amount}, headers=headers)
        account = guarded.get("/v1/api/billing/balance", headers=headers).json
        assert (account["user"], account["balance"]) == (user, 1_000_000 - amount)
