"""One request under a key: its record committed round the effect, or together with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from flask import Response, current_app
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from service_utils.errors import DeadlineExceeded, ServiceUnavailable, TokenError
from service_utils.idempotency.record import (
    Answer,
    Began,
    Mismatch,
    Question,
    Replay,
    Running,
    Started,
    Unknown,
    is_kept,
)
from service_utils.idempotency.sqlite import SharedTransaction
from service_utils.idempotency.store import IdempotencyStore, StoreError
from service_utils.integrations.flask.idempotency_answers import answer_again, to_keep
from service_utils.integrations.flask.problems import problem
from service_utils.storage import StorageError

__all__ = ["Check", "Checked", "Turn", "run_apart", "run_together"]

_logger = logging.getLogger("service_utils")

_SOON = {"Retry-After": "1"}


class Checked(Enum):
    """What a route's own check can say of a broken-off execution, besides the answer it should have given."""

    NOT_DONE = "not done"
    """Its effect has not happened and will not: the request may run now."""
    UNDECIDED = "undecided"
    """It cannot tell: the key stays unknown."""


Check: TypeAlias = Callable[..., ResponseReturnValue | Checked]


@dataclass(slots=True)
class Turn:
    """A request that wants to be carried out.

    Attributes:
        question: What it asks, and under which name.
        view: Carries it out.
        check: Finds out what became of an execution that was broken off, if the route can.
        expires: Seconds for which its answer is kept.
        max_answer: Bytes of the longest body that is kept.
        entered: Whether the view has been entered, so that something may have been done.
    """

    question: Question
    view: Callable[[], ResponseReturnValue]
    check: Callable[[], ResponseReturnValue | Checked] | None
    expires: float
    max_answer: int
    entered: bool = False

    def respond(self) -> Response:
        """Carry it out."""
        self.entered = True
        return current_app.make_response(current_app.ensure_sync(self.view)())

    def ask(self) -> Response | Checked:
        """What the route finds out about a broken-off execution."""
        if self.check is None:
            return Checked.UNDECIDED
        said = current_app.ensure_sync(self.check)()
        return said if isinstance(said, Checked) else current_app.make_response(said)

    def kept(self, response: Response) -> Answer:
        """The response as it is kept."""
        return to_keep(response, self.max_answer)


def run_apart(store: IdempotencyStore, turn: Turn) -> Response:
    """Carry a request out with its record committed before and after."""
    question = turn.question
    try:
        try:
            began = store.begin(question)
            found = _look_into(store, turn, began) if isinstance(began, Unknown) else began
        except (StorageError, StoreError) as error:
            return _unavailable(turn, error)
        return _carry_out(store, turn) if isinstance(found, Started) else _told(found)
    except BaseException:
        if not turn.entered:  # interrupted on the way in: nothing was done
            with contextlib.suppress(Exception):
                store.forget(question)
        raise
    finally:
        try:
            store.leave(question)
        except BaseException:  # an interrupt that came just now; leaving twice does no harm
            store.leave(question)
            raise


def _look_into(store: IdempotencyStore | SharedTransaction, turn: Turn, unknown: Unknown) -> Began | Response:
    said = turn.ask()
    if said is Checked.UNDECIDED:
        return unknown
    if isinstance(said, Checked):
        return Started() if store.take_over(turn.question, unknown.token) else Running()
    if not is_kept(said.status_code):
        return said
    answer = turn.kept(said)
    settled = store.settle(turn.question.record_id, unknown.token, answer, turn.expires)
    return Replay(answer) if settled else Running()


def _carry_out(store: IdempotencyStore, turn: Turn) -> Response:
    try:
        response = turn.respond()
    except Exception as error:
        response = _answer_to(error)
        if response.status_code >= 500 and not _certainly_refused(error):
            return response  # nobody knows what was done before it: left without a word, the key is unknown
    if is_kept(response.status_code):
        answer = turn.kept(response)
        _say(turn, lambda: store.finish(turn.question, answer, turn.expires))
    else:
        _say(turn, lambda: store.forget(turn.question))
    return response


def _certainly_refused(error: Exception) -> bool:
    """Whether the view has refused the request, or could not even begin a call that it depends on."""
    if isinstance(error, DeadlineExceeded):
        return not error.sent
    return isinstance(error, HTTPException | ServiceUnavailable | TokenError)


def _say(turn: Turn, word: Callable[[], bool]) -> None:
    """Tell the store what came of it. The effect has happened: a failure here must not change the answer."""
    asked = turn.question
    try:
        heard = word()
    except Exception as error:
        text = "The answer to %s %s could not be kept, its key is unknown from now on: %s"
        _logger.error(text, asked.method, asked.path, error)
        return
    if not heard:
        text = "The answer to %s %s is not kept: its key was settled while it was running"
        _logger.warning(text, asked.method, asked.path)


class _Undone(Exception):
    """Undoes the transaction it is raised in, and carries what the request comes to all the same."""

    def __init__(self, result: Response | Exception) -> None:
        super().__init__()
        self.result = result


def run_together(shared: SharedTransaction, turn: Turn) -> Response:
    """Carry a request out in one transaction with its record."""
    try:
        with shared.begin(turn.question) as began:
            return _in_transaction(shared, turn, began)
    except _Undone as undone:
        result = undone.result
    except StorageError as error:  # at the beginning or the commit: whatever was written is undone
        return _unavailable(turn, error)
    if isinstance(result, Exception):
        raise result
    return result


def _in_transaction(shared: SharedTransaction, turn: Turn, began: Began) -> Response:
    try:
        found = _look_into(shared, turn, began) if isinstance(began, Unknown) else began
        if not isinstance(found, Started):
            return _told(found)
        response = _carry_out_together(shared, turn)
        answer = turn.kept(response) if is_kept(response.status_code) else None
    except _Undone:
        raise
    except Exception as error:
        raise _Undone(error) from error
    if answer is None:
        raise _Undone(response)
    shared.finish(turn.question, answer, turn.expires)
    return response


def _carry_out_together(shared: SharedTransaction, turn: Turn) -> Response:
    try:
        with shared.undoing():
            return turn.respond()
    except Exception as error:
        response = _answer_to(error)
        if not shared.connection.in_transaction:  # SQLite gave it up as a whole: nothing can be kept in it
            raise _Undone(response) from error
        return response


def _answer_to(error: Exception) -> Response:
    """What the app answers to an exception of its view; raised again where it has no answer to it."""
    return current_app.make_response(current_app.handle_user_exception(error))


def _told(found: Began | Response) -> Response:
    """The answer to a request that is not carried out."""
    match found:
        case Response():
            return found
        case Replay(answer) if answer.body is not None:
            return answer_again(answer)
        case Replay(answer):
            detail = (
                f"This request was carried out and answered with status {answer.status}; "
                "the answer was too long to be kept."
            )
            return problem(409, detail=detail, first_status=answer.status, idempotency_state="answered")
        case Mismatch():
            return problem(422, detail="This Idempotency-Key was first used for another request.")
        case Running():
            detail = "The first request with this Idempotency-Key is still being carried out."
            return problem(409, detail=detail, headers=_SOON, idempotency_state="running")
    detail = (
        "The first request with this Idempotency-Key was broken off. "
        "Whether it was carried out has to be found out before it may be repeated."
    )
    return problem(409, detail=detail, idempotency_state="unknown")


def _unavailable(turn: Turn, error: Exception) -> Response:
    asked = turn.question
    _logger.error(
        "%s %s cannot be carried out, the store of its key fails: %s", asked.method, asked.path, error
    )
    return problem(503, detail="The request cannot be taken at the moment.", headers=_SOON)
