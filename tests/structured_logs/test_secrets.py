"""Secrets are masked wherever they turn up."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from service_utils import configure_logging
from service_utils.structured_logs import JSONFormatter, Secrets, SecretsFilter, TextFormatter
from service_utils.testing import FakeClock

SECRET = 's3cr3t/+ "tök"\\n='


def secrets(**environ: str) -> Secrets:
    """Of an environment."""
    return Secrets(environ=environ, clock=FakeClock())


@pytest.mark.parametrize(
    "name",
    [
        "INTERNAL_SERVICE_TOKEN",
        "INTERNAL_SERVICE_TOKEN_PREVIOUS",
        "ADMIN_TOKEN",
        "AUTH_JWT_SECRET",
        "LLM_API_KEY",
        "LLM_FALLBACK_API_KEY",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "INTERNAL_TOKEN_KEYS",
        "SECRET",
    ],
)
def test_variables_that_hold_secrets(name: str) -> None:
    """By the end of their names."""
    assert secrets(**{name: SECRET}).mask(f"it is {SECRET}!") == "it is ***!"


@pytest.mark.parametrize("name", ["INTERNAL_TOKEN_HOSTS", "PATH", "TOKEN_TTL", "KEYBOARD", "LLM_MODEL"])
def test_variables_that_do_not(name: str) -> None:
    """What is everyday stays readable."""
    assert secrets(**{name: "example.com"}).mask("example.com") == "example.com"


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET),
        repr(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(b"u:" + SECRET.encode()).decode(),
        base64.b64encode(b"user:" + SECRET.encode() + b"@x").decode(),
    ],
    ids=range(10),
)
def test_in_other_clothes(form: str) -> None:
    """Encoded as addresses, headers and JSON do it."""
    masked = secrets(A_TOKEN=SECRET).mask(f"before {form} after")
    assert "***" in masked
    assert form not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://ann:pa55@host/x", "http://***@host/x"),
        ("redis://:pa55@host", "redis://***@host"),
        ("/x?token=abc&y=1", "/x?token=***&y=1"),
        ("/x?y=1&api_key=abc", "/x?y=1&api_key=***"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ('"X-INTERNAL-TOKEN": "abc"', '"X-INTERNAL-TOKEN": "***"'),
        ("Cookie: session=abc", "Cookie: ***"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!", "got ***!"),
        ("the token is missing", "the token is missing"),
        ("basic arithmetic", "basic ***"),  # better one word too many
        ("GET /query?limit=5", "GET /query?limit=5"),
        ("mail ann@example.com", "mail ann@example.com"),
    ],
    ids=range(13),
)
def test_what_looks_like_a_secret(text: str, masked: str) -> None:
    """Also those that nobody has told us of."""
    assert secrets().mask(text) == masked


def test_text_made_to_take_long_does_not() -> None:
    """Beginnings of signed tokens without end are gone through once, not from each of them."""
    text = "eyJ-" * 250_000
    assert secrets().mask(text) == text


def test_an_environment_that_changes_meanwhile() -> None:
    """Another thread sets a variable while it is gone through: what is known holds for another second."""

    class Changing(dict[str, str]):
        broken = False

        def items(self) -> Any:
            if self.broken:
                raise RuntimeError("dictionary changed size during iteration")
            return super().items()

    clock, environ = FakeClock(), Changing(A_TOKEN="hunter2")
    known = Secrets(environ=environ, clock=clock)
    environ.broken = True
    clock.advance(1.0)
    assert known.mask("hunter2") == "***"


def test_short_ones_are_left_alone() -> None:
    """A secret of three letters is in every second word."""
    assert secrets(A_TOKEN="abc").mask("abcdef") == "abcdef"


def test_keys_of_a_key_set() -> None:
    """Each by itself."""
    keys = json.dumps(
        {"keys": [{"kid": "a", "k": "first-key-material"}, {"kid": "b", "d": "second-key-material"}]}
    )
    masked = secrets(INTERNAL_TOKEN_KEYS=keys).mask("first-key-material second-key-material")
    assert masked == "*** ***"


@pytest.mark.parametrize("text", ["{", "[1]", '{"keys": 5}', "null", "[null]"])
def test_what_is_no_key_set(text: str) -> None:
    """Harms nobody."""
    assert secrets(INTERNAL_TOKEN_KEYS=text).mask("hello") == "hello"


def test_files_and_rotations(tmp_path: Path) -> None:
    """The file is read again when it has changed, once a second at most."""
    clock, file = FakeClock(), tmp_path / "token"
    file.write_text("first-token\n")
    known = Secrets(environ={"INTERNAL_SERVICE_TOKEN_FILE": str(file)}, clock=clock)
    assert known.mask("first-token second-token-longer") == "*** second-token-longer"
    file.write_text("second-token-longer\n")
    clock.advance(1.0)
    assert known.mask("first-token second-token-longer") == "first-token ***"
    file.unlink()
    clock.advance(1.0)
    assert known.mask("second-token-longer") == "second-token-longer"


def test_those_of_the_user() -> None:
    """A list, or a function that is asked again; one that fails keeps no line from being written."""
    assert Secrets(["hunter2"], environ={}).mask("hunter2") == "***"
    assert Secrets(lambda: ["hunter2"], environ={}).mask("hunter2") == "***"
    assert Secrets(lambda: [str(1 / 0)], environ={}).mask("hunter2") == "hunter2"
    assert "hunter2" not in repr(Secrets(["hunter2"]))


@pytest.mark.parametrize("as_json", [True, False])
def test_everything_of_a_line_is_masked(as_json: bool) -> None:
    """Message, arguments, extra fields, exception and stack."""
    out = io.StringIO()
    name = "tests.secrets"
    handler = configure_logging(json=as_json, stream=out, logger=name, secrets=["hunter2"])
    try:
        try:
            raise ValueError("hunter2 in an exception")
        except ValueError:
            logging.getLogger(name).exception(
                "hunter2 %s %s",
                "hunter2",
                {"a": "hunter2"},
                extra={"field": "hunter2", "deep": {"hunter2": ["hunter2"]}},
                stack_info=True,
            )
    finally:
        logging.getLogger(name).removeHandler(handler)
    assert "***" in out.getvalue()
    # The stack shows the source above, which is no secret: what is left is masked as well.
    assert "hunter2" not in out.getvalue()


def test_the_filter_for_other_handlers() -> None:
    """It masks the record, whatever formats it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(message)s %(field)s"))
    handler.addFilter(SecretsFilter(Secrets(["hunter2"])))
    logger = logging.getLogger("tests.filter")
    logger.addHandler(handler)
    try:
        try:
            raise ValueError("hunter2")
        except ValueError:
            logger.exception("%s", "hunter2", extra={"field": ["hunter2"]}, stack_info=True)
        logger.error("%d", "hunter2", extra={"field": 1})
    finally:
        logger.removeHandler(handler)
    assert "hunter2" not in out.getvalue()
    assert out.getvalue().startswith("*** ['***']")


def test_formatters_mask_what_is_in_use_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to think of it."""
    monkeypatch.setenv("ADMIN_TOKEN", "hunter2-hunter2")
    record = logging.makeLogRecord({"msg": "hunter2-hunter2", "levelname": "INFO"})
    assert "hunter2" not in JSONFormatter().format(record)
    assert "hunter2" not in TextFormatter("%(message)s").format(record)
