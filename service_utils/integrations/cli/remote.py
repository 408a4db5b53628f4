"""The desk of an app that runs somewhere: its admin API over HTTP."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import requests

from service_utils.integrations.cli.face import Trouble

__all__ = ["RemoteDesk"]

_PREFIX = "/admin/reliability"
_LONGEST = 16 * 2**20  # bytes of an answer; a report of many services has some hundred thousand
_WORDS = 300  # characters of what a server says of itself


class RemoteDesk:
    """See :class:`~service_utils.integrations.cli.face.Face`.

    The token goes to this address alone: redirects are not followed, and neither ``.netrc`` nor the
    environment adds or replaces credentials.

    Args:
        url: Of the app, such as ``http://127.0.0.1:5000``; the admin API is below it.
        token: The admin token.
        operator: Who, for the audit log.
        timeout: Seconds to wait for a connection, and for each part of an answer.

    Raises:
        Trouble: ``url`` is no http(s) address.
    """

    def __init__(self, url: str, token: str, operator: str, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            shown = url if "@" not in url else "one with credentials in it"
            raise Trouble(f"--url: must be http://HOST[:PORT] or https://HOST[:PORT], not {shown}")
        self._root = url.rstrip("/") + _PREFIX
        self._timeout = timeout
        self._session = requests.Session()
        self._session.auth = _keep  # so that .netrc is left alone
        self._session.headers.update(
            {"Authorization": f"Bearer {token}", "X-Operator": operator, "Accept": "application/json"}
        )

    def __enter__(self) -> Self:
        """For a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._session.close()

    def overview(self) -> dict[str, Any]:
        """What people see first."""
        return self._get("/overview")

    def circuits(self) -> dict[str, Any]:
        """All services, and which of them are sick."""
        return self._get("/circuit-breakers")

    def act(self, name: str, act: str, reason: str) -> dict[str, Any]:
        """``reset``, ``force-open`` or ``disable`` a circuit; returns its status."""
        return self._post(f"/circuit-breakers/{_part(name)}/{act}", reason=reason)

    def probe(self, name: str) -> dict[str, Any]:
        """Ask a service's health path."""
        return self._post(f"/circuit-breakers/{_part(name)}/probe")

    def level(self) -> dict[str, Any]:
        """The level of degradation."""
        return self._get("/degradation")

    def set_level(self, level: str, reason: str, expires_in: float | None) -> dict[str, Any]:
        """Set it by hand."""
        expiry = "never" if expires_in is None else expires_in
        return self._post("/degradation/set-level", level=level, reason=reason, expires_in=expiry)

    def clear_level(self, reason: str) -> dict[str, Any]:
        """Let the rules decide."""
        return self._post("/degradation/clear", reason=reason)

    def letters(
        self, service: str | None, status: str | None, limit: int, after: str | None
    ) -> dict[str, Any]:
        """A page of dead letters."""
        return self._get("/dlq", service=service, status=status, limit=limit, after=after)

    def letter(self, letter_id: str, *, body: bool) -> dict[str, Any]:
        """One of them."""
        return self._get(f"/dlq/{_part(letter_id)}", body="true" if body else None)

    def retry(self, letter_id: str, reason: str, *, force: bool) -> dict[str, Any]:
        """Have it tried again."""
        return self._post(f"/dlq/{_part(letter_id)}/retry", reason=reason, force=force)

    def retry_all(
        self, service: str | None, status: str | None, reason: str, *, force: bool
    ) -> dict[str, Any]:
        """Have many tried again."""
        return self._post("/dlq/retry", service=service, status=status, reason=reason, force=force)

    def purge(
        self, service: str | None, status: str | None, older_than: float | None, reason: str
    ) -> dict[str, Any]:
        """Remove letters for good."""
        return self._post("/dlq/purge", service=service, status=status, older_than=older_than, reason=reason)

    def report(self) -> dict[str, Any]:
        """The reliability report."""
        return self._get("/reports/reliability")

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, params={name: each for name, each in query.items() if each is not None})

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return self._ask("POST", path, json={name: each for name, each in body.items() if each is not None})

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            with self._session.request(
                method,
                self._root + path,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                **more,
            ) as response:
                text = response.raw.read(_LONGEST + 1, decode_content=True)
        except (requests.RequestException, OSError) as error:
            raise Trouble(f"{self._root} cannot be reached: {_cause(error)}") from error
        if len(text) > _LONGEST:
            raise Trouble(
                f"{self._root} answers with more than {_LONGEST // 2**20} MiB: is it the right address?"
            )
        return self._understood(response, text)

    def _understood(self, response: requests.Response, text: bytes) -> dict[str, Any]:
        kind = response.headers.get("Content-Type", "")
        response._content = text
        try:
            answer = response.json() if "json" in kind else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Trouble(
                f"{self._root} answers {response.status_code} with {kind or 'nothing'}, which is not the "
                "admin API: is --url right?"
            )
        if response.ok and not response.is_redirect:
            return answer
        detail = str(answer.get("detail") or answer.get("title") or "no reason given")[:_WORDS]
        hint = {401: " See --token-file.", 429: " Try again in a minute."}.get(response.status_code, "")
        raise Trouble(f"{detail}{hint}")


def _keep(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _part(text: str) -> str:
    return quote(text, safe="")


def _cause(error: Exception) -> str:
    """The words of the innermost cause, without objects' addresses."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    reason = getattr(error, "reason", None)
    words = str(reason if isinstance(reason, Exception) else error)
    return words.rpartition(">: ")[2] or type(error).__name__
