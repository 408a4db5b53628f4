"""Keys as they come in a header, and the digests that are kept in their place.

Neither a key nor a body is kept. A record is named by a digest of the key and its scope. What was asked is
remembered as an HMAC with the key as its secret, so that whoever reads the store alone cannot find out a
short body by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from service_utils.http.idempotency import checked_key

__all__ = ["fingerprint_of", "parse_key", "record_id"]

# The String of RFC 9651, as draft-ietf-httpapi-idempotency-key-header has it: quotes and backslashes escaped.
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')


def parse_key(value: str) -> str:
    """The key that a header's value means: ``"abc"`` and ``abc`` are the same key.

    The draft of the standard has a quoted string; what nearly everybody sends is the bare word.

    Raises:
        ValueError: It is neither, or not 1 to 255 visible ASCII characters. The message does not show it.
    """
    key = value
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise ValueError("the key is no well-formed quoted string")
        key = _ESCAPED.sub(r"\1", quoted.group(1))
    try:
        return checked_key(key)
    except ValueError:
        raise ValueError("the key must be 1 to 255 visible ASCII characters") from None


def record_id(caller: str, method: str, path: str, key: str) -> str:
    """The name of a key's record: 64 hexadecimal digits that tell nothing of the key."""
    return hashlib.sha256(_joined(map(_encoded, (caller, method, path, key)))).hexdigest()


def fingerprint_of(key: str, parts: Iterable[bytes]) -> bytes:
    """The digest of what was asked under a key: 32 bytes that tell nothing of it to who lacks the key."""
    return hmac.digest(_encoded(key), _joined(parts), "sha256")


def _joined(parts: Iterable[bytes]) -> bytes:
    """With their lengths, so that nothing can wander from one part to the next unseen."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
