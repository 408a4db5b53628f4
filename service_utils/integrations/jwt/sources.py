"""Where keys come from: a file or the environment, looked at again so that a rotation needs no restart."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Protocol

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.forks import guard
from service_utils.integrations.jwt.key_set import KeySet
from service_utils.policies.checks import checked_clock

__all__ = ["EnvKeys", "KeyFile", "KeySource"]

_KEYS = "INTERNAL_TOKEN_KEYS"
_KEYS_FILE = "INTERNAL_TOKEN_KEYS_FILE"
_CHECK_SECONDS = 1.0
_LONGEST_FILE = 256 * 1024  # bytes

_logger = logging.getLogger("service_utils")


class KeySource(Protocol):
    """Anything that has keys; a :class:`KeySet` is one, with keys that never change. For any thread."""

    def current(self) -> KeySet:
        """The keys now. The same object as long as they are the same.

        Raises:
            TokenError: There are none to be had.
        """
        ...

    def reload(self) -> KeySet:
        """The keys now, without relying on an earlier look.

        Raises:
            TokenError: There are none to be had.
        """
        ...


class KeyFile:
    """The JSON Web Key Set in a file, which is looked at again once a second at most.

    A file that can no longer be read, or is damaged, leaves the keys as they were, and an ERROR in the log:
    half a write must not lock all callers out. Replace it in one stroke (``mv``) all the same.

    Args:
        path: The file. Its owner alone should be able to read it.
        clock: Where the time between two looks comes from.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self.path = Path(path)
        self._clock = checked_clock(clock)
        self._lock = threading.RLock()
        self._looked_at: float | None = None
        self._seen: tuple[bytes, KeySet] | None = None  # digest of the text, and the keys in it
        self._trouble = ""
        guard(self)

    def current(self) -> KeySet:
        """See :meth:`KeySource.current`."""
        seen, then = self._seen, self._looked_at
        if seen is None or then is None or not 0 <= self._clock.monotonic() - then < _CHECK_SECONDS:
            return self.reload()
        return seen[1]

    def reload(self) -> KeySet:
        """See :meth:`KeySource.reload`."""
        now = self._clock.monotonic()
        try:
            text = self._read()
            digest = hashlib.sha256(text.encode()).digest()
            seen = self._seen
            if seen is None or seen[0] != digest:
                seen = (digest, KeySet.from_jwks(text))
        except (OSError, ValueError) as error:
            return self._keep(now, _in_words(error))
        with self._lock:
            self._looked_at, self._seen, self._trouble = now, seen, ""
        return seen[1]

    def _read(self) -> str:
        with open(self.path, "rb") as file:
            data = file.read(_LONGEST_FILE + 1)
        if len(data) > _LONGEST_FILE:
            raise ValueError(f"is longer than {_LONGEST_FILE} bytes")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:  # it quotes what it could not read
            raise ValueError("is no UTF-8 text") from None

    def _keep(self, now: float, trouble: str) -> KeySet:
        """The keys of the last look that found any."""
        with self._lock:
            seen, told, self._trouble, self._looked_at = self._seen, self._trouble, trouble, now
        message = f"{_KEYS_FILE}={str(self.path)!r}: {trouble}"
        if seen is None:
            raise TokenError(message)
        if told != trouble:
            _logger.error("%s; the keys stay as they were", message)
        return seen[1]

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"


class EnvKeys:
    """The JSON Web Key Set of the environment, asked for at each use.

    ``INTERNAL_TOKEN_KEYS_FILE`` names a :class:`KeyFile` and wins over ``INTERNAL_TOKEN_KEYS``, which holds
    the set itself.

    Args:
        clock: Where the time between two looks at the file comes from.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = checked_clock(clock)
        self._file: KeyFile | None = None
        self._seen: tuple[str, KeySet] | None = None

    def current(self) -> KeySet:
        """See :meth:`KeySource.current`."""
        file = self._file_named()
        return self._from_text() if file is None else file.current()

    def reload(self) -> KeySet:
        """See :meth:`KeySource.reload`."""
        file = self._file_named()
        return self._from_text() if file is None else file.reload()

    def _file_named(self) -> KeyFile | None:
        path = os.environ.get(_KEYS_FILE)
        if not path:
            return None
        file = self._file
        if file is None or str(file.path) != str(Path(path)):
            self._file = file = KeyFile(path, clock=self._clock)
        return file

    def _from_text(self) -> KeySet:
        text = os.environ.get(_KEYS, "").strip()
        seen = self._seen
        if seen is not None and seen[0] == text:
            return seen[1]
        if not text:
            raise TokenError(f"neither {_KEYS_FILE} nor {_KEYS} is set: there is no key for signed tokens")
        try:
            keys = KeySet.from_jwks(text)
        except ValueError as error:
            raise TokenError(f"{_KEYS}: {error}") from None
        self._seen = (text, keys)
        return keys

    def __repr__(self) -> str:
        return "EnvKeys()"


def _in_words(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or type(error).__name__})"
    return str(error)
