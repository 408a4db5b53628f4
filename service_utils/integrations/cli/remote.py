"""The desk of an app that runs somewhere: its admin API over HTTP."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

import requests

from service_utils.clock import SYSTEM
from service_utils.errors import ResponseTooLarge
from service_utils.events import FailureKind
from service_utils.http.classify import classify_error
from service_utils.http.options import SendOptions
from service_utils.http.retry_after import parse_retry_after
from service_utils.http.transport import SessionTransport
from service_utils.http.urls import BaseURL, segment
from service_utils.integrations.cli.face import NotThere, Trouble

__all__ = ["RemoteDesk"]

_PREFIX = "/admin/reliability"
_LONGEST = 16 * 2**20  # bytes of an answer; a report of many services has some hundred thousand
_WORDS = 1000  # characters of what a server says of itself


class RemoteDesk:
    """See :class:`~service_utils.integrations.cli.face.Face`.

    The token goes to this address alone: redirects are not followed, and neither ``.netrc`` nor the
    environment adds or replaces credentials. Certificates and proxies are those that ``requests`` goes by.

    Args:
        url: Of the app, such as ``http://127.0.0.1:5000``; the admin API is below it.
        token: The admin token.
        operator: Who, for the audit log.
        timeout: Seconds until a whole answer must be there.

    Raises:
        Trouble: ``url`` is no http(s) address, or a variable names certificates that are not there.
    """

    def __init__(self, url: str, token: str, operator: str, timeout: float = 10.0) -> None:
        base = _address(url)
        self._root = base.url + _PREFIX
        self._timeout = timeout
        self._headers = {
            "Authorization": f"Bearer {token}",
            "X-Operator": operator,
            "Accept": "application/json",
        }
        try:
            self._transport = SessionTransport(
                base,
                self._root,
                session=None,
                pool_maxsize=1,
                max_response_bytes=_LONGEST,
                verify=True,
                cert=None,
                trust_env=True,
            )
        except ValueError as error:
            raise Trouble(str(error)) from error

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
        self._transport.close()

    def overview(self) -> dict[str, Any]:
        """What people see first."""
        return self._get("/overview", "sick", "services")

    def circuits(self) -> dict[str, Any]:
        """All services, and which of them are sick."""
        return self._get("/circuit-breakers", "services", "open")

    def act(self, name: str, act: str, reason: str) -> dict[str, Any]:
        """``reset``, ``force-open`` or ``disable`` a circuit; returns its status."""
        return self._post(f"/circuit-breakers/{_part('NAME', name)}/{act}", "state", reason=reason)

    def probe(self, name: str) -> dict[str, Any]:
        """Ask a service's health path."""
        return self._post(f"/circuit-breakers/{_part('NAME', name)}/probe", "name", "healthy")

    def level(self) -> dict[str, Any]:
        """The level of degradation."""
        return self._get("/degradation", "level")

    def set_level(self, level: str, reason: str, expires_in: float | None) -> dict[str, Any]:
        """Set it by hand."""
        expiry = "never" if expires_in is None else expires_in
        return self._post("/degradation/set-level", "level", level=level, reason=reason, expires_in=expiry)

    def clear_level(self, reason: str) -> dict[str, Any]:
        """Let the rules decide."""
        return self._post("/degradation/clear", "level", reason=reason)

    def letters(
        self, service: str | None, status: str | None, limit: int, after: str | None
    ) -> dict[str, Any]:
        """A page of dead letters."""
        return self._get(
            "/dlq", "letters", "next", "stats", service=service, status=status, limit=limit, after=after
        )

    def letter(self, letter_id: str, *, body: bool) -> dict[str, Any]:
        """One of them."""
        return self._get(f"/dlq/{_part('ID', letter_id)}", "id", body="true" if body else None)

    def retry(self, letter_id: str, reason: str, *, force: bool) -> dict[str, Any]:
        """Have it tried again."""
        return self._post(f"/dlq/{_part('ID', letter_id)}/retry", "queued", reason=reason, force=force)

    def retry_all(
        self, service: str | None, status: str | None, reason: str, *, force: bool
    ) -> dict[str, Any]:
        """Have many tried again."""
        return self._post("/dlq/retry", "letters", service=service, status=status, reason=reason, force=force)

    def purge(
        self, service: str | None, status: str | None, older_than: float | None, reason: str
    ) -> dict[str, Any]:
        """Remove letters for good."""
        return self._post(
            "/dlq/purge",
            "letters",
            service=service,
            status=status,
            older_than=older_than,
            reason=reason,
        )

    def report(self) -> dict[str, Any]:
        """The reliability report."""
        return self._get("/reports/reliability", "services", "summary")

    def _get(self, path: str, *parts: str, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, parts, params=_given(query))

    def _post(self, path: str, *parts: str, **body: Any) -> dict[str, Any]:
        return self._ask("POST", path, parts, json=_given(body))

    def _ask(self, method: str, path: str, parts: tuple[str, ...], **more: Any) -> dict[str, Any]:
        """Send a request; ``parts`` are those that the answer has if it is one of the admin API."""
        request = requests.Request(
            method, self._root + path, headers=self._headers, auth=_keep_headers, **more
        )
        try:
            prepared = self._transport.prepare(request)
            response = self._transport.send(prepared, self._timeout, SendOptions(allow_redirects=False))
        except (requests.RequestException, OSError) as error:
            raise Trouble(self._why_none(method, error)) from error
        answer = self._understood(response)
        if missing := [each for each in parts if each not in answer]:
            raise Trouble(
                f"{self._root} answers without {missing[0]!r}, which the admin API of this version has: "
                "is --url right?"
            )
        return answer

    def _why_none(self, method: str, error: Exception) -> str:
        """Why there is no answer."""
        if isinstance(error, ResponseTooLarge):
            return f"{self._root} answers with more than {_LONGEST // 2**20} MiB: is --url right?"
        verdict = classify_error(error)
        if verdict.never_sent or verdict.kind is FailureKind.CALLER:
            return f"{self._root} cannot be reached: {verdict.detail}"
        words = f"{self._root} has not answered within {self._timeout:g} s (--timeout)"
        if verdict.kind is not FailureKind.TIMEOUT:
            words = f"{self._root} has given no whole answer: {verdict.detail}"
        if method == "GET":
            return words
        return f"{words}. What was asked for may be done all the same: look before you repeat it"

    def _understood(self, response: requests.Response) -> dict[str, Any]:
        if 300 <= response.status_code < 400:
            where = response.headers.get("Location", "").partition("?")[0][:_WORDS]
            raise Trouble(
                f"{self._root} redirects to {where or 'nowhere'}. The token does not go along; "
                "if that is the app, give its address as --url"
            )
        kind = response.headers.get("Content-Type", "")
        answer = _object_in(response.content) if "json" in kind else None
        if answer is None and response.status_code >= 500:
            raise Trouble(f"{self._root} answers {response.status_code}: the app, or a proxy, is not well")
        if answer is None:
            raise Trouble(
                f"{self._root} answers {response.status_code} with {kind[:_WORDS] or 'nothing'}, which is "
                "not the admin API: is --url right?"
            )
        if response.ok:
            return answer
        raise _refusal(response, answer)


def _address(url: str) -> BaseURL:
    try:
        base = BaseURL.parse(url.strip(), what="--url")
    except ValueError as error:
        raise Trouble(str(error)) from error
    if base.userinfo is not None:
        raise Trouble(
            "--url: must be http://HOST[:PORT] or https://HOST[:PORT], not one with credentials in it"
        )
    return base


def _refusal(response: requests.Response, answer: dict[str, Any]) -> Trouble:
    """What the admin API says when it does not do it."""
    status = response.status_code
    words = str(answer.get("detail") or answer.get("title") or "")[:_WORDS]
    if not words:
        words = f"{response.url.partition('?')[0]} answers {status} without a reason: is --url right?"
    if status == 401:
        words += " See --token-file."
    if status in (429, 503):
        wait = parse_retry_after(response.headers.get("Retry-After"), SYSTEM.now())
        words += "" if wait is None else f" Try again in {wait:.0f} s."
    return NotThere(words) if status == 404 else Trouble(words)


def _object_in(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):  # brackets without end come from no admin API
        return None
    return found if isinstance(found, dict) else None


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Credentials that are there already, so that nobody looks for some in ``.netrc``."""
    return request


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in fields.items() if each is not None}


def _part(what: str, text: str) -> str:
    """A name or id as one segment of a path.

    Raises:
        Trouble: It would be another path: whoever sends ``dlq/./retry`` asks for ``dlq/retry``.
    """
    try:
        return segment(what, text)
    except ValueError as error:
        raise NotThere(f"{what}={text[:_WORDS]!r}: there can be none of that name") from error
