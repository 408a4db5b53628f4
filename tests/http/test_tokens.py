"""Tokens: what is sent to whom, where it comes from, and that nobody reads it by the way."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from service_utils.errors import TokenError
from service_utils.http.tokens import (
    INTERNAL_TOKEN_HEADER,
    BearerToken,
    EnvToken,
    StaticToken,
    TokenProvider,
    get_internal_headers,
    internal_tokens,
)
from service_utils.testing import FakeClock

SECRET = "s3cret-t0ken"


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that INTERNAL_SERVICE_TOKEN_FILE names."""
    path = tmp_path / "token"
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", str(path))
    return path


def test_static_token() -> None:
    """A static token travels in the internal header, or in another."""
    assert StaticToken(SECRET).headers("chroma") == {"X-INTERNAL-TOKEN": SECRET}
    assert StaticToken(SECRET, header="X-Api-Key").headers("chroma") == {"X-Api-Key": SECRET}


def test_bearer_token() -> None:
    """A bearer token travels as public APIs ask for it."""
    assert BearerToken(SECRET).headers("llm") == {"Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize("provider", [StaticToken(SECRET), BearerToken(SECRET)])
def test_headers_are_a_copy(provider: StaticToken | BearerToken) -> None:
    """What a caller does to the headers stays with the caller."""
    provider.headers("x").clear()
    assert provider.headers("x")


@pytest.mark.parametrize("kind", [StaticToken, BearerToken])
@pytest.mark.parametrize(
    "token", ["", "two words", "line\r\nX-Evil: 1", "tab\t", "Zürich", "nul\0", " x", "x "]
)
def test_tokens_that_cannot_be_sent(kind: Any, token: str) -> None:
    """A token that no header could carry is refused at once, without being shown."""
    with pytest.raises(ValueError, match="token: must be") as caught:
        kind(token)
    assert len(token.strip()) < 2 or token not in str(caught.value)


@pytest.mark.parametrize("kind", [StaticToken, BearerToken])
@pytest.mark.parametrize("token", [None, 5, b"bytes", ["a"]])
def test_tokens_that_are_none(kind: Any, token: Any) -> None:
    """A token is a string; the error shows its type and not its value."""
    with pytest.raises(TypeError, match=f"token: must be a string, not {type(token).__name__}"):
        kind(token)


def test_header_that_is_none() -> None:
    """The header's name is a string, too."""
    header: Any = 5
    with pytest.raises(TypeError, match="header=5"):
        StaticToken(SECRET, header=header)


def test_providers_fit_the_protocol() -> None:
    """Ours are what ``token_provider=`` takes."""
    for provider in (StaticToken(SECRET), BearerToken(SECRET), EnvToken()):
        assert isinstance(provider, TokenProvider)


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No provider prints the secret it holds, neither alone nor inside something else."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", SECRET)
    environment = EnvToken()
    environment.headers("chroma")
    providers = [StaticToken(SECRET), BearerToken(SECRET), environment]
    assert SECRET not in f"{providers!r} {[str(each) for each in providers]} {dict.fromkeys(providers)!r}"


def test_static_providers_can_be_copied() -> None:
    """A provider may travel to another process with the client's settings."""
    for provider in (StaticToken(SECRET), BearerToken(SECRET)):
        expected = provider.headers("x")
        for twin in (copy.deepcopy(provider), pickle.loads(pickle.dumps(provider))):
            assert twin.headers("x") == expected


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of the environment is read at each call: a new one needs no restart."""
    provider = EnvToken()
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "first")
    assert provider.headers("chroma") == {INTERNAL_TOKEN_HEADER: "first"}
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", " second\n")
    assert provider.headers("chroma") == {INTERNAL_TOKEN_HEADER: "second"}


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_token(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Without a token nothing is sent; an empty variable is none."""
    if text is not None:
        monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", text)
    assert EnvToken().token() is None
    assert EnvToken().headers("chroma") == {}
    assert get_internal_headers() == {}
    assert internal_tokens() == ()


def test_production_sends_nothing_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production a missing token is an error, not a call without one."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    with pytest.raises(TokenError, match="INTERNAL_SERVICE_TOKEN is not set"):
        EnvToken().headers("chroma")
    with pytest.raises(TokenError, match="production"):
        get_internal_headers()
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", SECRET)
    assert EnvToken().headers("chroma") == {INTERNAL_TOKEN_HEADER: SECRET}


@pytest.mark.parametrize("text", ["two words", "Zürich", "line\nbreak"])
def test_unusable_token_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A token that no header could carry is named by its variable, and not shown."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", text)
    with pytest.raises(TokenError, match="INTERNAL_SERVICE_TOKEN: must be") as caught:
        EnvToken().headers("chroma")
    assert text not in str(caught.value)


def test_internal_headers_for_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """get_internal_headers() gives what our own clients send."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", SECRET)
    assert get_internal_headers() == {"X-INTERNAL-TOKEN": SECRET}


def test_file_wins(monkeypatch: pytest.MonkeyPatch, token_file: Path) -> None:
    """A file with the token wins over the variable with one; white space around the token is cut off."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "of-the-variable")
    token_file.write_text("  of-the-file\n")
    assert EnvToken().headers("chroma") == {INTERNAL_TOKEN_HEADER: "of-the-file"}


def test_empty_file_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty INTERNAL_SERVICE_TOKEN_FILE leaves the variable to decide."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", "")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", SECRET)
    assert EnvToken().token() == SECRET


def test_file_is_read_again_after_a_second(token_file: Path, fake_clock: FakeClock) -> None:
    """A rotated file is noticed within a second, and until then not looked at."""
    token_file.write_text("old")
    provider = EnvToken(clock=fake_clock)
    assert provider.token() == "old"
    token_file.write_text("new")
    fake_clock.advance(0.99)
    assert provider.token() == "old"
    fake_clock.advance(0.01)
    assert provider.token() == "new"


def test_another_file_is_read_at_once(
    token_file: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the variable names another file, the old one's token is not used any more."""
    token_file.write_text("old")
    provider = EnvToken(clock=fake_clock)
    provider.token()
    other = token_file.with_name("other")
    other.write_text("new")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", str(other))
    assert provider.token() == "new"


def test_refresh_reads_the_file_at_once(token_file: Path, fake_clock: FakeClock) -> None:
    """After a 401 the file is looked at without waiting, and whether the token is another one is known."""
    token_file.write_text("old")
    provider = EnvToken(clock=fake_clock)
    provider.token()
    assert provider.refresh("chroma") is False
    token_file.write_text("new")
    assert provider.refresh("chroma") is True
    assert provider.token() == "new"


def test_refresh_before_the_first_look(token_file: Path) -> None:
    """Who has not read the file yet has every reason to try again."""
    token_file.write_text("new")
    assert EnvToken().refresh("chroma") is True


def test_refresh_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the environment is read at each call anyway: there is nothing newer."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", SECRET)
    assert EnvToken().refresh("chroma") is False


def test_missing_file(token_file: Path) -> None:
    """A file that is not there is an error with its path and the reason, not a call without a token."""
    with pytest.raises(TokenError, match=f"INTERNAL_SERVICE_TOKEN_FILE='{token_file}': .*No such file"):
        EnvToken().headers("chroma")


def test_file_that_vanishes(token_file: Path, fake_clock: FakeClock) -> None:
    """A token outlives its file for a second at most; when the file is back, so is the token."""
    token_file.write_text("token")
    provider = EnvToken(clock=fake_clock)
    provider.token()
    token_file.unlink()
    assert provider.token() == "token"
    fake_clock.advance(1)
    with pytest.raises(TokenError):
        provider.token()
    token_file.write_text("again")
    assert provider.token() == "again"


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two words", b"a\nb", "Zürich".encode(), b"\xff\xfe", b"a\0b"]
)
def test_unusable_file(token_file: Path, content: bytes) -> None:
    """A file without a usable token is an error that names the variable and shows nothing of the content."""
    token_file.write_bytes(content)
    with pytest.raises(TokenError, match="INTERNAL_SERVICE_TOKEN_FILE") as caught:
        EnvToken().token()
    assert caught.value.__cause__ is None
    assert "words" not in str(caught.value)


def test_folder_instead_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that cannot be read says why."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_FILE", str(tmp_path))
    with pytest.raises(TokenError, match="directory"):
        EnvToken().token()


def test_tokens_that_callers_may_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiving side accepts the current token and, during a rotation, the previous one."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "new")
    assert internal_tokens() == ("new",)
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_PREVIOUS", " old ")
    assert internal_tokens() == ("new", "old")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_PREVIOUS", "")
    assert internal_tokens() == ("new",)


def test_unusable_previous_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A previous token that could never have been sent is named by its variable, and not shown."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN_PREVIOUS", "two words")
    with pytest.raises(TokenError, match="INTERNAL_SERVICE_TOKEN_PREVIOUS") as caught:
        internal_tokens()
    assert "two words" not in str(caught.value)
