"""``python -m backend token``."""

from __future__ import annotations

import jwt
import pytest

from backend.__main__ import main

SECRET = "a secret of more than thirty-two bytes"


def test_token_is_printed_for_a_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed lets that user in for so many hours."""
    monkeypatch.setenv("AUTH_JWT_SECRET", SECRET)

    assert main(["token", "--user", "alice", "--hours", "2"]) == 0

    claims = jwt.decode(capsys.readouterr().out.strip(), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("alice", 7200)


def test_development_needs_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a secret in development the command says that nobody needs one."""
    assert main(["token", "--user", "alice"]) == 1

    out, err = capsys.readouterr()
    assert (out, err) == ("", "No token is needed: without AUTH_JWT_SECRET every user is 'dev'\n")


@pytest.mark.parametrize(
    ("environ", "arguments", "words"),
    [
        ({"SERVICE_UTILS_PROFILE": "production"}, [], "AUTH_JWT_SECRET is not set"),
        ({"AUTH_JWT_PUBLIC_KEY": "key.pem"}, [], "AUTH_JWT_SECRET is not set"),
        ({"AUTH_JWT_SECRET": SECRET}, ["--hours", "-1"], "hours=-1.0"),
        ({"AUTH_JWT_SECRET": SECRET}, ["--user", "a b"], "user='a b'"),
        ({"AUTH_JWT_SECRET": SECRET, "CHAT_RESERVE": "x"}, [], "CHAT_RESERVE='x'"),
    ],
)
def test_what_cannot_be_signed_is_explained(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    arguments: list[str],
    words: str,
) -> None:
    """Nothing is printed but the reason."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert main(["token", "--user", "alice", *arguments]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert SECRET not in err
