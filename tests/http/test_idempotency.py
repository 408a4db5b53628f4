"""Idempotency keys: one name per logical write."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from service_utils.http.idempotency import IDEMPOTENCY_HEADER, KEYED_METHODS, checked_key, new_key


def test_header_and_methods() -> None:
    """POST and PATCH carry a key, in the header everybody knows."""
    assert IDEMPOTENCY_HEADER == "Idempotency-Key"
    assert sorted(KEYED_METHODS) == ["PATCH", "POST"]


def test_new_keys_differ() -> None:
    """No two keys are the same, and each can be sent."""
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(checked_key(key) == key and uuid.UUID(key).version == 4 for key in keys)


@pytest.mark.parametrize("key", ["a", "order-17", "x" * 255, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_usable_keys(key: str) -> None:
    """A key of the caller's own is sent as it is."""
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "a\r\nX-Evil: 1", "\0", "ключ", "x" * 256, "\x7f"])
def test_unusable_keys(key: str) -> None:
    """A key that no header could carry, or of more than 255 characters, is refused and named."""
    with pytest.raises(ValueError, match="idempotency_key=" + re.escape(repr(key))):
        checked_key(key)


@pytest.mark.parametrize("key", [None, 5, b"bytes", uuid.UUID(int=1), ["a"]])
def test_keys_that_are_none(key: Any) -> None:
    """A key is a string."""
    with pytest.raises(TypeError, match="idempotency_key="):
        checked_key(key)
