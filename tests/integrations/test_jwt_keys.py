"""Keys: what is taken for one, which signs and which verifies when, and where they come from."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from service_utils.errors import TokenError
from service_utils.integrations.jwt import (
    EnvKeys,
    Key,
    KeyFile,
    KeySet,
    SignedToken,
    TokenRefused,
    TokenVerifier,
    new_jwk,
    public_jwk,
)
from service_utils.testing import FakeClock
from tests.forked import in_child

SECRET = "0123456789abcdef0123456789abcdef"
SHORT = "short-secret-of-31-bytes-......"
T0 = FakeClock().now()
ED25519 = Ed25519PrivateKey.generate()
PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PRIVATE_PEM = ED25519.private_bytes(*PKCS8)
PUBLIC_PEM = ED25519.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
A, B = new_jwk("a", "HS256"), new_jwk("b", "EdDSA")


def jwks(*keys: dict[str, Any]) -> str:
    """A key set as text."""
    return json.dumps({"keys": keys})


def at(seconds: float) -> str:
    """A moment so many seconds after the clock's start, as a key set has it."""
    return (T0 + timedelta(seconds=seconds)).isoformat()


class TestKeys:
    def test_weak_secrets_are_refused(self) -> None:
        """A secret of less than 32 bytes is no key, and is not quoted."""
        assert len(SHORT) == 31
        with pytest.raises(ValueError, match="at least 32 bytes, this one 31") as raised:
            Key.hs256("k", SHORT)
        assert SHORT not in str(raised.value)
        assert Key.hs256("k", SHORT + "!").can_sign

    @pytest.mark.parametrize("secret", [PUBLIC_PEM, PRIVATE_PEM, json.dumps(public_jwk(B))])
    def test_a_key_of_another_kind_is_no_secret(self, secret: bytes | str) -> None:
        """A public key in the place of a secret would let everybody sign who can read it."""
        with pytest.raises(ValueError, match="no HS256 secret"):
            Key.hs256("k", secret)

    def test_pem_keys_sign_and_verify(self) -> None:
        """A private PEM key signs what its public one verifies; the public one signs nothing."""
        private, public = Key.ed25519("k", PRIVATE_PEM), Key.ed25519("k", PUBLIC_PEM.decode())
        assert public.read(private.sign({"a": 1})) == b'{"a":1}'
        assert (private.can_sign, public.can_sign) == (True, False)
        with pytest.raises(TokenError, match="public"):
            public.sign({})

    @pytest.mark.parametrize(
        "pem",
        [
            b"",
            b"nonsense",
            PRIVATE_PEM[:60],
            generate_private_key(65537, 2048).private_bytes(*PKCS8),
            "-----BEGIN PRIVATE KEY-----\nwhat is this?\n-----END PRIVATE KEY-----",
        ],
        ids=["empty", "nonsense", "cut off", "RSA", "no base64"],  # keys are new ones in each process
    )
    def test_other_pem_keys_are_refused(self, pem: bytes | str) -> None:
        """RSA and rubbish are told apart from Ed25519 when the key is made; nothing of them is quoted."""
        with pytest.raises(ValueError, match="'k'") as raised:
            Key.ed25519("k", pem)
        assert "what is" not in str(raised.value)

    @pytest.mark.parametrize(
        "changed",
        [
            {"kid": None},
            {"kid": "with space"},
            {"kid": "x" * 65},
            {"alg": None},
            {"alg": "none"},
            {"alg": "HS512"},
            {"alg": "EdDSA"},
            {"kty": "RSA"},
            {"k": None},
            {"k": "?" + A["k"]},
            {"k": A["k"][:20]},
            {"k": A["k"][:-3] + "é"},
            {"use": "enc"},
            {"iss": ""},
            {"iss": 5},
            {"active_from": "soon"},
            {"active_from": "2026-11-01T00:00:00"},
            {"active_from": 1700000000},
            {"active_from": at(5), "retired_from": at(5)},
        ],
    )
    def test_bad_json_web_keys_are_refused(self, changed: dict[str, Any]) -> None:
        """A key is whole and of a kind we know, or none; its secret part is in no error."""
        with pytest.raises(ValueError, match=r"key|kid") as raised:
            KeySet.from_jwks(jwks({**A, **changed}))
        assert A["k"][:12] not in str(raised.value)
        assert raised.value.__cause__ is None

    @pytest.mark.parametrize(
        "changed",
        [{"crv": "Ed448"}, {"x": A["k"]}, {"x": "AAAA"}, {"d": "AAAA"}, {"d": None}, {"alg": "HS256"}],
    )
    def test_bad_ed25519_keys_are_refused(self, changed: dict[str, Any]) -> None:
        """Halves that do not belong together, or other curves, are no key."""
        with pytest.raises(ValueError, match="'b'") as raised:
            KeySet.from_jwks(jwks({**B, **changed}))
        assert B["d"][:12] not in str(raised.value)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"keys": {}}', '{"keys": []}', '{"keys": [1]}', "[" * 9999]
    )
    def test_bad_sets_are_refused(self, text: str) -> None:
        """What is no key set says so."""
        with pytest.raises(ValueError, match="key"):
            KeySet.from_jwks(text)

    def test_names_are_unique(self) -> None:
        """Two keys of one name would leave it open which is meant."""
        with pytest.raises(ValueError, match="'a'"):
            KeySet.from_jwks(jwks(A, {**B, "kid": "a"}))

    def test_new_keys_are_random_and_have_a_public_part(self) -> None:
        """A key that is made now is like no other, and what verifiers get of it has nothing that signs."""
        assert new_jwk("a", "HS256")["k"] != new_jwk("a", "HS256")["k"]
        assert "d" not in public_jwk(B)
        with pytest.raises(ValueError, match="no public part"):
            public_jwk(A)
        with pytest.raises(ValueError, match="algorithm"):
            new_jwk("a", "RS256")


class TestRotation:
    def test_the_newest_active_key_signs(self) -> None:
        """A key signs from its time on, until a newer one does or it is retired."""
        known = KeySet.from_jwks(
            jwks(
                {**A, "kid": "old"},
                {**A, "kid": "new", "active_from": at(10)},
                {**A, "kid": "short", "active_from": at(20), "retired_from": at(30)},
                {**public_jwk(B), "active_from": at(15)},
                {**A, "kid": "others", "active_from": at(15), "iss": "git"},
            )
        )
        signers = [
            known.signing_key("backend", T0 + timedelta(seconds=s)).kid for s in (0, 9, 10, 20, 29, 30)
        ]
        assert signers == ["old", "old", "new", "short", "short", "new"]

    def test_of_equally_new_keys_the_last_signs(self) -> None:
        """A set without times is one to which new keys are appended."""
        assert KeySet.from_jwks(jwks({**A, "kid": "1"}, {**A, "kid": "2"})).signing_key("x", T0).kid == "2"

    def test_all_keys_verify_until_they_are_retired(self) -> None:
        """A key verifies before it signs and as long as it is not retired."""
        known = KeySet.from_jwks(jwks({**A, "active_from": at(10), "retired_from": at(20)}, B))
        found = [known.find("a", T0 + timedelta(seconds=s)) is not None for s in (0, 15, 20)]
        assert found == [True, True, False]

    def test_no_token_outlives_its_key(self) -> None:
        """A key that is soon retired makes tokens that end with it."""
        clock = FakeClock()
        known = KeySet.from_jwks(jwks({**A, "retired_from": at(20)}))
        token = SignedToken(known, "backend", clock=clock).headers("billing")["X-INTERNAL-TOKEN"]
        claims = TokenVerifier(known, "billing", clock=clock).verify(token)
        assert claims.expires_at == T0.timestamp() + 20

    @given(
        skew=st.floats(-5, 5),
        overlap=st.integers(120, 600),
        calls=st.lists(st.floats(0, 40), min_size=1, max_size=40),
    )
    def test_a_rotation_by_the_book_loses_no_call(
        self, skew: float, overlap: int, calls: list[float]
    ) -> None:
        """With an overlap, clocks that differ and calls at any moments: every token is accepted."""
        ours, theirs = FakeClock(), FakeClock(now=T0 + timedelta(seconds=skew))
        text = jwks({**A, "retired_from": at(200 + overlap)}, {**B, "active_from": at(200)})
        provider = SignedToken(KeySet.from_jwks(text), "backend", clock=ours)
        verifier = TokenVerifier(KeySet.from_jwks(text), "billing", clock=theirs)
        for pause in calls:
            ours.advance(pause)
            theirs.advance(pause)
            verifier.verify(provider.headers("billing")["X-INTERNAL-TOKEN"])


class TestFile:
    def test_a_new_file_counts_within_a_second(self, tmp_path: Path) -> None:
        """A rotation needs no restart: signer and verifier see the new keys a second later at most."""
        clock, path = FakeClock(), tmp_path / "keys.json"
        path.write_text(jwks(A))
        source = KeyFile(path, clock=clock)
        provider = SignedToken(source, "backend", clock=clock)
        verifier = TokenVerifier(source, "billing", clock=clock)
        old = provider.headers("billing")["X-INTERNAL-TOKEN"]
        path.write_text(jwks(B))
        assert verifier.verify(old).kid == "a"
        clock.advance(1)
        assert verifier.verify(provider.headers("billing")["X-INTERNAL-TOKEN"]).kid == "b"
        with pytest.raises(TokenRefused, match="unknown or retired"):
            verifier.verify(old)

    def test_the_same_text_is_the_same_keys(self, tmp_path: Path) -> None:
        """Looking at the file again makes no new tokens as long as nothing has changed."""
        clock, path = FakeClock(), tmp_path / "keys.json"
        path.write_text(jwks(A))
        source = KeyFile(path, clock=clock)
        first = source.current()
        clock.advance(5)
        assert source.current() is first
        assert source.reload() is first

    @pytest.mark.parametrize(
        ("damage", "words"),
        [("half", "no JSON"), ("gone", "No such file"), ("bytes", "no UTF-8"), ("huge", "longer than")],
    )
    def test_a_damaged_file_leaves_the_keys_as_they_were(
        self, tmp_path: Path, damage: str, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that is half written locks nobody out; the log says so once, and shows no key."""
        clock, path = FakeClock(), tmp_path / "keys.json"
        path.write_text(jwks(A))
        source = KeyFile(path, clock=clock)
        first = source.current()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(
                {"half": jwks(A)[:60].encode(), "bytes": b"\xff" + A["k"].encode(), "huge": b"x" * 300_000}[
                    damage
                ]
            )
        for _ in range(3):
            clock.advance(1)
            assert source.current() is first
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert str(path) in errors[0].getMessage()
        assert words in errors[0].getMessage()
        assert A["k"][:12] not in caplog.text
        path.write_text(jwks(B))
        clock.advance(1)
        assert source.current().find("b", T0) is not None

    def test_a_file_that_never_was_is_an_error(self, tmp_path: Path) -> None:
        """Without keys no call is sent and nobody is let in; the error names the file."""
        with pytest.raises(TokenError, match=r"nowhere\.json"):
            KeyFile(tmp_path / "nowhere.json").current()

    def test_it_works_on_in_a_child(self, tmp_path: Path) -> None:
        """A worker that is forked off reads the file by itself."""
        clock, path = FakeClock(), tmp_path / "keys.json"
        path.write_text(jwks(A))
        source = KeyFile(path, clock=clock)
        source.current()
        path.write_text(jwks(B))
        assert in_child(lambda: source.reload().find("b", T0) is not None)


class TestEnvironment:
    def test_the_file_wins_over_the_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both variables are asked for at each use; the file goes first."""
        source, path = EnvKeys(), tmp_path / "keys.json"
        with pytest.raises(TokenError, match="INTERNAL_TOKEN_KEYS_FILE nor INTERNAL_TOKEN_KEYS"):
            source.current()
        monkeypatch.setenv("INTERNAL_TOKEN_KEYS", jwks(A))
        first = source.current()
        assert source.current() is first
        assert source.reload() is first
        path.write_text(jwks(B))
        monkeypatch.setenv("INTERNAL_TOKEN_KEYS_FILE", str(path))
        assert source.current().find("b", T0) is not None
        monkeypatch.setenv("INTERNAL_TOKEN_KEYS_FILE", "")
        assert source.reload() is first

    def test_bad_text_is_an_error_without_the_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the variable and shows no secret."""
        monkeypatch.setenv("INTERNAL_TOKEN_KEYS", jwks(A)[:-5])
        with pytest.raises(TokenError, match="INTERNAL_TOKEN_KEYS: ") as raised:
            EnvKeys().current()
        assert A["k"][:12] not in str(raised.value)


def test_times_are_aware() -> None:
    """A time without a zone could be any of twenty-four."""
    with pytest.raises(ValueError, match="active_from"):
        Key.hs256("k", SECRET, active_from=datetime(2026, 11, 1))  # noqa: DTZ001
    assert Key.hs256("k", SECRET, active_from=datetime(2026, 11, 1, tzinfo=UTC)).active_from is not None
    assert os.environ.get("INTERNAL_TOKEN_KEYS") is None
