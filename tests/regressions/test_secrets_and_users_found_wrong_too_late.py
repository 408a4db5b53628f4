from __future__ import annotations

from pathlib import Path

import pytest

from backend.__main__ import main
from backend.app import create_app
from backend.auth import authenticator, issue_token
from backend.config import Settings
from service_utils.profiles import PROFILES

PEM = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----"""


@pytest.mark.parametrize(
    ("secret", "words"), [(PEM, "AUTH_JWT_PUBLIC_KEY"), ("   ", "AUTH_JWT_SECRET: must not be blank")]
)
def test_secret_that_nothing_can_be_signed_with(secret: str, words: str, tmp_path: Path) -> None:
    """A secret that is blank or a public key is named when the backend starts, not a 500 to every request."""
    with pytest.raises(ValueError, match=words):
        create_app({"AUTH_JWT_SECRET": secret, "VAR_DIR": str(tmp_path)})


def test_token_command_with_a_key_for_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token command explains in a line that a public key is no secret."""
    monkeypatch.setenv("AUTH_JWT_SECRET", PEM)

    assert main(["token", "--user", "alice"]) == 1

    assert capsys.readouterr().err.startswith("AUTH_JWT_SECRET: is a key or a certificate, no secret")


@pytest.mark.parametrize("user", [".", ".."])
def test_user_called_like_a_step_of_a_path(user: str) -> None:
    """No token is made for a user who could not ask for his balance, because his name is a dot or two."""
    settings = Settings(auth_jwt_secret="a secret of more than thirty-two bytes")

    with pytest.raises(ValueError, match="user="):
        issue_token(settings, user, 1)
    assert (
        authenticator(settings, PROFILES["production"])(f"Bearer {issue_token(settings, '..a', 1)}") == "..a"
    )
