"""Keys as they come in a header, and the digests that stand for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.idempotency import fingerprint_of, is_kept, parse_key, record_id

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (r'"a\"b\\c"', r"a\"b\c".replace(r"\"", '"')),
        ('a"b"', 'a"b"'),
        ("a" * 255, "a" * 255),
        (f'"{"a" * 255}"', "a" * 255),
        (r"a\b", r"a\b"),
    ],
)
def test_quoted_and_bare_are_the_same_key(value: str, key: str) -> None:
    """The string of the standard's draft, and the bare word that everybody sends."""
    assert parse_key(value) == key


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "two words", "a\tb", "a\x00b", "a\x7fb", "ä", "a" * 256),
        *(
            '""',
            '"',
            '"abc',
            '"a"b"',
            r'"a\b"',
            '"a\\"',
            '"abc" ',
            '"abc";p=1',
            '"two words"',
            f'"{"a" * 256}"',
        ),
    ],
)
def test_a_malformed_key_is_refused(value: str) -> None:
    """Empty, too long, blanks, control characters, half a quoted string; the message does not show it."""
    with pytest.raises(ValueError, match="key") as refused:
        parse_key(value)
    assert len(value) < 3 or value not in str(refused.value)


@given(visible)
def test_every_key_can_be_quoted(key: str) -> None:
    """Quoted as the draft has it, any key is still that key."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key(f'"{escaped}"') == key


@given(st.text(max_size=300))
def test_no_header_breaks_it(value: str) -> None:
    """Whatever comes, it is a key or a ValueError."""
    try:
        key = parse_key(value)
    except ValueError:
        return
    assert 1 <= len(key) <= 255


parts = st.lists(st.binary(max_size=4), max_size=4)


@given(parts, parts)
def test_nothing_wanders_between_parts(one: list[bytes], other: list[bytes]) -> None:
    """Two questions have one fingerprint only when all their parts are equal."""
    assert (fingerprint_of("k", one) == fingerprint_of("k", other)) is (one == other)


def test_the_fingerprint_needs_the_key() -> None:
    """The same question under another key has another fingerprint."""
    assert fingerprint_of("k", [b"body"]) != fingerprint_of("l", [b"body"])


def test_each_part_of_the_scope_counts() -> None:
    """Caller, method, path and key: another one is another record."""
    scopes = [
        ("", "POST", "/a", "k"),
        ("x", "POST", "/a", "k"),
        ("", "PUT", "/a", "k"),
        ("", "POST", "/b", "k"),
        ("", "POST", "/a", "l"),
        ("", "POST", "/", "ak"),
        ("\ud800", "POST", "/a", "k"),
    ]
    assert len({record_id(*scope) for scope in scopes}) == len(scopes)


@pytest.mark.parametrize("status", [200, 201, 302, 400, 402, 404, 422, 499])
def test_answers_to_the_question_are_kept(status: int) -> None:
    """They would be the same another time."""
    assert is_kept(status)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 599])
def test_answers_of_the_moment_are_not_kept(status: int) -> None:
    """They say that nothing was done, and invite to try again."""
    assert not is_kept(status)
