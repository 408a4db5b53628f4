"""How a call ends: why, with what result for the breaker, and with what for the caller. Pure functions."""

from __future__ import annotations

from service_utils.call import Call, Tried
from service_utils.calls import EndReason, Outcome
from service_utils.errors import DeadlineExceeded, ServiceError, ServiceUnavailable, TokenError
from service_utils.events import FailureKind
from service_utils.http.failures import described, status_error
from service_utils.http.outgoing import Outgoing

__all__ = ["error_for", "outcome_for", "reason_for_leaving", "reason_to_end"]

_SUCCESS, _CALLER = EndReason.SUCCESS, FailureKind.CALLER  # looking into an enum takes longer than a call


def reason_to_end(call: Call, outgoing: Outgoing, tried: Tried, *, half_open: bool) -> EndReason | None:
    """Why no attempt may follow this one, as far as attempt, request and policy tell; else None."""
    reason = _reason_of_result(tried)
    if reason is not None:
        return reason
    if len(call.attempts) >= call.max_attempts:
        return EndReason.ATTEMPTS_EXHAUSTED
    if half_open:
        return EndReason.HALF_OPEN
    return None if _may_be_repeated(call, outgoing, tried) else EndReason.NOT_RETRYABLE


def _reason_of_result(tried: Tried) -> EndReason | None:
    verdict = tried.verdict
    if verdict.kind is None:
        return _SUCCESS
    if verdict.kind is _CALLER:
        return EndReason.CALLER_ERROR
    if tried.cut or isinstance(tried.error, DeadlineExceeded):
        return EndReason.DEADLINE
    if verdict.refused:
        return EndReason.REFUSED
    return None if verdict.transient else EndReason.NOT_RETRYABLE


def _may_be_repeated(call: Call, outgoing: Outgoing, tried: Tried) -> bool:
    verdict, policy = tried.verdict, call.policy
    if not outgoing.replayable() or (verdict.retry_after or 0.0) > policy.max_retry_after:
        return False
    has_key = outgoing.idempotency_key is not None
    return policy.may_retry(call.method, has_key=has_key, never_sent=verdict.never_sent)


def outcome_for(call: Call, tried: Tried) -> Outcome:
    """One call is one result. What we or our caller cut short does not undo an earlier failure."""
    if (tried.hastened or tried.verdict.refused) and call.failed_before():
        return Outcome.FAILURE
    return Outcome.IGNORED if tried.hastened else tried.verdict.outcome


def error_for(call: Call, tried: Tried, *, raise_for_status: bool) -> Exception | None:
    """The exception a call ends with, or None when it ends with its response."""
    error, response, verdict = tried.error, tried.response, tried.verdict
    if tried.cut:
        sentence = call.sentence("ran out of time")
        return DeadlineExceeded(sentence, service=call.service, sent=call.sent)
    if isinstance(error, ServiceError):
        error.args = (
            call.sentence("ended" if call.attempts or call.refreshed else "was not sent", _why(call, error)),
        )
        return error
    if verdict.kind is _CALLER:
        return error
    if error is not None:
        late = verdict.kind is FailureKind.TIMEOUT
        why = verdict.detail or f"status {verdict.status}"
        return described(error, call.sentence("failed", why), late=late)
    if response is not None and verdict.failed and call.policy.raise_on_status:
        return status_error(response, call.sentence("failed"), verdict)
    if response is not None and raise_for_status and not verdict.failed and response.status_code >= 400:
        return status_error(response, call.sentence("failed", f"status {response.status_code}"), verdict)
    return None


def reason_for_leaving(call: Call, error: BaseException) -> EndReason:
    """Why a call ended that an exception carried out of the client; refusals get a sentence on the way."""
    if isinstance(error, ServiceError):
        error.args = (call.sentence("was not sent", _why(call, error)),)
    if isinstance(error, DeadlineExceeded):
        return EndReason.DEADLINE
    refused = isinstance(error, ServiceUnavailable | TokenError)
    return EndReason.REFUSED if refused else EndReason.CALLER_ERROR


def _why(call: Call, error: ServiceError) -> str:
    return str(error).removeprefix(f"{call.service}: ")
