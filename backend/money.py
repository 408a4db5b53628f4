"""The Billing service as the routes see it: fail closed, nothing charged twice, nothing kept.

A reservation ends in one of three ways. *Charged*: the capture is confirmed. *Given back*: something failed
before the capture, or the capture certainly did not happen. *Pending*: the capture was sent and nobody heard
what became of it; then the user gets what the money was for, because he must not lose both, and the capture
is kept among the dead letters, which repeat it under its key until Billing has answered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import requests

from backend.answers import BadAnswer, member, members
from backend.keys import derived_key
from backend.models import DeductRequest
from backend.services.common import Refusal
from backend.timing import any_time
from service_utils import DeadlineExceeded, ResilientServiceClient, ServiceUnavailable
from service_utils.calls import CallRecord
from service_utils.dead_letters import DeadLetterError, DeadLetterQueue
from service_utils.storage import StorageError

__all__ = ["Billing", "Reservation", "ReservationOver", "Settlement"]

logger = logging.getLogger(__name__)

_RESERVED_FOR = (
    120  # seconds after which an abandoned reservation frees itself; several times a request's deadline
)
_RELEASE_WITHIN = 3.0
_STATUSES_OF_DOUBT = frozenset({408, 409})
_CAPTURED = "captured"
_UNCAPTURED = frozenset({"released", "expired"})
_NO_MONEY = 402
_CONFLICT = 409
_OTHER_BODY = 422


class ReservationOver(Refusal):
    """A reservation was released or has expired: it was not captured, and never will be."""


class Settlement(StrEnum):
    """What became of a reservation that was to be captured."""

    CHARGED = "charged"
    PENDING = "pending"


@dataclass(slots=True)
class Reservation:
    """Money set aside at Billing.

    Attributes:
        reservation_id: Its name there.
        key: From which the idempotency keys of its capture and release are derived.
        settled: Whether it needs no release: captured, or possibly so.
    """

    reservation_id: str
    key: str
    settled: bool = False


class Billing:
    """Charges, reservations and balances.

    Args:
        client: The client of the Billing service.
        dead_letters: Where captures are kept of which nobody knows what became.
    """

    def __init__(self, client: ResilientServiceClient, dead_letters: DeadLetterQueue) -> None:
        self._client = client
        self._dead_letters = dead_letters

    def balance(self, user: str, currency: str) -> dict[str, Any]:
        """The user's account in one currency.

        Raises:
            requests.RequestException: Billing is away.
            Refusal: It would not say.
        """
        response = self._client.get(
            "/balance/{user}", path_params={"user": user}, params={"currency": currency}
        )
        return members(_accepted(response))

    def deduct(self, user: str, charge: DeductRequest, key: str) -> dict[str, Any]:
        """Charge a user once for this key, however often it is called.

        Raises:
            requests.RequestException: Billing is away; it may have charged, and the same key then finds that
                out.
            Refusal: The balance is too small (402), or the key is taken (409, 422).
        """
        body = {"user": user, "amount": charge.amount, "currency": charge.currency}
        if charge.description:
            body["description"] = charge.description
        return members(_accepted(self._client.post("/deduct_cost", json=body, idempotency_key=key)))

    @contextmanager
    def reserved(self, user: str, amount: int, currency: str, key: str) -> Iterator[Reservation]:
        """Hold money while the block runs; it is given back unless it was captured, however the block ends.

        Raises:
            requests.RequestException: Billing is away. If it reserved nevertheless, the reservation expires.
            Refusal: The balance is too small (402).
        """
        body = {"user": user, "amount": amount, "currency": currency, "ttl_seconds": _RESERVED_FOR}
        response = self._client.post("/reserve", json=body, idempotency_key=derived_key(key, "reserve"))
        reservation = Reservation(member(_accepted(response), "reservation_id", str), key)
        try:
            yield reservation
        finally:
            if not reservation.settled:
                self._release(reservation)

    def capture(self, reservation: Reservation, amount: int) -> Settlement:
        """Take the real cost out of a reservation.

        Raises:
            requests.RequestException: It certainly was not taken, because Billing never saw or never did it.
            Refusal: Billing refused.
        """
        body = {"reservation_id": reservation.reservation_id, "amount": amount}
        # With the amount in the key, a repeat at another price is told that the reservation was captured.
        key = derived_key(reservation.key, "capture", str(amount))
        try:
            response = self._client.post("/capture", json=body, idempotency_key=key)
        except requests.RequestException as error:
            if _certainly_not_done(error):
                raise
            logger.warning(
                "Nobody knows whether reservation %s was captured: %s", reservation.reservation_id, error
            )
            return self._pending(reservation, body, key, error)
        state = _member(response, "state")
        if not (response.ok or state == _CAPTURED or _still_at_work(response)):
            raise _refused(response)
        if state != _CAPTURED:
            return self._pending(reservation, body, key, "still being worked on")
        reservation.settled = True
        return Settlement.CHARGED

    def _pending(
        self, reservation: Reservation, body: dict[str, Any], key: str, error: Exception | str
    ) -> Settlement:
        """Have the capture settled later: under its key it is made once, however often it is repeated."""
        reservation.settled = True
        try:
            self._dead_letters.add(
                self._client.name, "POST", "/capture", json=body, error=error, idempotency_key=key
            )
        except (DeadLetterError, StorageError) as failure:
            logger.error(
                "The capture of reservation %s cannot be kept for later: %s",
                reservation.reservation_id,
                failure,
            )
        return Settlement.PENDING

    def _release(self, reservation: Reservation) -> None:
        body = {"reservation_id": reservation.reservation_id}
        key = derived_key(reservation.key, "release")
        try:
            with any_time():
                response = self._client.post(
                    "/release", json=body, idempotency_key=key, deadline=_RELEASE_WITHIN
                )
        except requests.RequestException as error:
            logger.warning(
                "Reservation %s is not released, it will expire: %s", reservation.reservation_id, error
            )
            return
        if not response.ok:
            logger.error(
                "Billing answered %d to the release of reservation %s",
                response.status_code,
                reservation.reservation_id,
            )


def _certainly_not_done(error: requests.RequestException) -> bool:
    """Whether a call that failed had no effect for sure."""
    if isinstance(error, ServiceUnavailable):
        return True
    if isinstance(error, DeadlineExceeded):
        return not error.sent
    call = getattr(error, "call", None)
    return isinstance(call, CallRecord) and all(_is_plain_refusal(each.status) for each in call.attempts)


def _is_plain_refusal(status: int | None) -> bool:
    return status is not None and 400 <= status < 500 and status not in _STATUSES_OF_DOUBT


def _accepted(response: requests.Response) -> requests.Response:
    if not response.ok:
        raise _refused(response)
    return response


def _still_at_work(response: requests.Response) -> bool:
    """Whether Billing says that an earlier attempt under the same key is not over."""
    return response.status_code == _CONFLICT and "Retry-After" in response.headers


def _refused(response: requests.Response) -> Refusal:
    """What the user is told of a 4xx; ours to mend, and so a 502, unless it is about his money or his key."""
    status = response.status_code
    if status == _NO_MONEY:
        amounts = {name: _member(response, name) for name in ("needed", "available", "currency")}
        return Refusal(status, "the balance does not cover this", **amounts)
    if status == _OTHER_BODY:
        return Refusal(status, "this Idempotency-Key was used with another body", field="Idempotency-Key")
    if _still_at_work(response):
        after = response.headers["Retry-After"]
        return Refusal(status, "this charge is being worked on", headers={"Retry-After": after})
    if status == _CONFLICT and _member(response, "state") is None:
        return Refusal(status, "this Idempotency-Key was used long ago", field="Idempotency-Key")
    logger.error("Billing answered %d: %s", status, _member(response, "detail"))
    if status == _CONFLICT:
        over = _member(response, "state") in _UNCAPTURED
        return (ReservationOver if over else Refusal)(
            503, "the reservation was over before the answer was there", headers={"Retry-After": "1"}
        )
    return Refusal(502, "Billing Server refused the request.")


def _member(response: requests.Response, name: str) -> Any:
    """A member of a problem object; None where the service does not speak that way."""
    try:
        return members(response).get(name)
    except BadAnswer:
        return None
