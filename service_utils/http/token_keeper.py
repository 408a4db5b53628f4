"""One client's credentials: asked for at each attempt, refreshed once for all threads turned away."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

from service_utils.errors import TokenError
from service_utils.forks import guard
from service_utils.http.headers import check_header
from service_utils.http.tokens import TokenProvider

__all__ = ["TokenKeeper"]


class _Refresh:
    """A refresh under way, for those who wait for it."""

    __slots__ = ("by", "done", "error", "useful")

    def __init__(self) -> None:
        self.by = threading.get_ident()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.useful = True


class TokenKeeper:
    """Asks a provider for headers and refreshes them, from any thread, holding no lock meanwhile.

    Args:
        provider: The provider.
        name: Short name of the client, handed to it.
        service: Display name, for errors.
    """

    def __init__(self, provider: TokenProvider, name: str, service: str) -> None:
        self._provider = provider
        self._name = name
        self._service = service
        self._lock = threading.RLock()
        self._version = 0
        self._known: dict[Any, Any] = {}  # the last credentials that were found fit to travel
        self._under_way: _Refresh | None = None
        self._last: _Refresh | None = None  # what became of the one that made this version
        guard(self)

    def _renew_in_child(self) -> None:
        """After a fork: a refresh that another thread was at will never end here."""
        flight = self._under_way
        if flight is not None and flight.by != threading.get_ident():
            self._under_way = None

    def headers(self) -> tuple[Mapping[str, str], int]:
        """The credentials and the version they are of.

        Raises:
            TokenError: There are none to be had; whatever the provider raised is its cause.
        """
        version = self._version
        try:
            credentials = self._provider.headers(self._name)
        except Exception as error:
            raise self._as_token_error(error) from error
        if type(credentials) is not dict or credentials != self._known:
            self._known = dict(self._checked(credentials))
        return credentials, version

    def refresh(self, version: int, patience: float | None) -> bool:
        """Get newer credentials than those of ``version``, waiting where another thread is at it already.

        Args:
            version: Of the credentials that were turned away.
            patience: Seconds to wait for another thread; None for any time.

        Returns:
            Whether repeating the call makes sense.

        Raises:
            TokenError: The refresh failed; each thread gets a copy of its own, with the same cause.
        """
        if not callable(getattr(self._provider, "refresh", None)):
            return False
        mine: _Refresh | None = None
        try:
            with self._lock:
                # Credentials older than the last refresh share what became of that one.
                flight = self._under_way if version == self._version else self._last
                if flight is None:
                    flight = mine = self._under_way = _Refresh()
            if mine is not None:
                self._fly(mine)
        finally:
            # A signal can come in between; those who wait must not wait for nobody.
            if mine is not None and not mine.done.is_set():
                self._land(mine, interrupted=True)
        if mine is None and not self._landed(flight, patience):
            return False
        if flight.error is not None:
            raise copy.copy(flight.error) from flight.error.__cause__
        return flight.useful

    def _landed(self, flight: _Refresh, patience: float | None) -> bool:
        """Wait for another thread's refresh; the refresh itself, where it calls this service, cannot."""
        if flight.done.is_set():
            return True
        return flight.by != threading.get_ident() and flight.done.wait(patience)

    def _fly(self, flight: _Refresh) -> None:
        interrupted = False
        try:
            flight.useful = self._provider.refresh(self._name) is not False  # type: ignore[attr-defined]
        except Exception as error:
            flight.error = self._as_token_error(error)
            flight.error.__cause__ = error
        except BaseException:
            interrupted = True
            raise
        finally:
            self._land(flight, interrupted=interrupted)

    def _land(self, flight: _Refresh, *, interrupted: bool) -> None:
        """Let the waiting threads go on. An interrupted refresh says nothing of the credentials."""
        if interrupted:
            text = f"{self._service}: the refresh of the credentials was interrupted"
            flight.error = TokenError(text, service=self._service)
        with self._lock:
            if self._under_way is flight:
                self._under_way = None
            if not interrupted:  # else the next one tries again
                self._version += 1
                self._last = flight
        flight.done.set()

    def _checked(self, credentials: Any) -> Mapping[str, str]:
        """Credentials that can travel in headers; http.client would quote the others in its error."""
        if not isinstance(credentials, Mapping):
            kind = type(credentials).__name__
            raise TokenError(
                f"{self._service}: the token provider returned no headers but a {kind}", service=self._service
            )
        try:
            for name, value in credentials.items():
                check_header(name, value)
        except (TypeError, ValueError) as error:
            raise TokenError(
                f"{self._service}: of the token provider: {error}", service=self._service
            ) from None
        return credentials

    def _as_token_error(self, error: Exception) -> TokenError:
        if isinstance(error, TokenError):
            named = copy.copy(error)
            named.service = named.service or self._service
            return named
        return TokenError(f"{self._service}: no credentials ({type(error).__name__})", service=self._service)
