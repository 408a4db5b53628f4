"""Sending one letter once: by its service's client, or to the handler of its type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TypeAlias

import requests

from service_utils.client import ResilientServiceClient
from service_utils.clock import Clock
from service_utils.dead_letters.letter import DeadLetter
from service_utils.dead_letters.strategy import (
    Dead,
    Decision,
    Delivered,
    Refresh,
    decide_error,
    decide_handler_error,
    decide_response,
)
from service_utils.http.context import bind_context, valid_request_id
from service_utils.policies.deadline import Deadline
from service_utils.policies.retry import RetryPolicy

__all__ = ["Handler", "Sender", "current_letter"]

Handler: TypeAlias = Callable[[Any], object]
"""Takes a message's payload, and has dealt with it when it returns."""

_current: ContextVar[DeadLetter | None] = ContextVar("service_utils_letter", default=None)


def current_letter() -> DeadLetter:
    """The message that the handler which asks is working at.

    Its ``id`` is the same in every attempt, and so a good idempotency key for what the handler does.

    Raises:
        LookupError: No handler is at work in this thread.
    """
    letter = _current.get()
    if letter is None:
        raise LookupError("current_letter() is for handlers of a DeadLetterWorker, while they work")
    return letter


class Sender:
    """Sends letters, each once. Nothing of the thread's own context travels along.

    Args:
        limit: Seconds that one sending may take.
        clock: Where the time comes from.
    """

    def __init__(self, limit: float, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock

    def call(self, client: ResilientServiceClient, letter: DeadLetter) -> Decision:
        """Make the call a letter keeps: one attempt, which the client counts, gates and bounds as any other.

        Returns:
            What is to become of the letter; no :class:`Refresh`.
        """
        return Context().run(self._call, client, letter)

    def handle(self, handler: Handler, letter: DeadLetter) -> Decision:
        """Give a message to its handler, and say what is to become of it."""
        return Context().run(self._handle, handler, letter)

    def _call(self, client: ResilientServiceClient, letter: DeadLetter) -> Decision:
        _bind(letter)
        own = client.deadline
        limit = self._limit if own is None else min(self._limit, own)
        deadline = Deadline.after(limit, self._clock)
        decision = self._send(client, letter, deadline, refreshed=False)
        if not isinstance(decision, Refresh):
            return decision
        try:
            fresh = client.refresh_credentials(deadline.remaining())
        except Exception as error:
            return decide_error(error)
        if not fresh:
            return Dead("status 403", 403)
        return self._send(client, letter, deadline, refreshed=True)

    def _send(
        self, client: ResilientServiceClient, letter: DeadLetter, deadline: Deadline, *, refreshed: bool
    ) -> Decision:
        policy = _one_attempt(client.retry)
        try:
            response = client.request(
                letter.method,
                letter.path,
                data=letter.body,
                headers=dict(letter.headers),
                idempotency_key=letter.idempotency_key,
                retry=policy,
                deadline=deadline,
            )
        except Exception as error:
            answer = getattr(error, "response", None)
            if not isinstance(error, requests.HTTPError) or not isinstance(answer, requests.Response):
                return decide_error(error)
            response = answer
        return decide_response(
            response,
            clock=self._clock,
            has_key=letter.idempotency_key is not None,
            age=self._age(letter),
            refreshed=refreshed,
            retry_statuses=policy.retry_statuses,
        )

    def _handle(self, handler: Handler, letter: DeadLetter) -> Decision:
        _bind(letter)
        _current.set(letter)
        try:
            payload = letter.payload()
        except ValueError:
            return Dead("its payload is no JSON")
        try:
            handler(payload)
        except Exception as error:
            return decide_handler_error(error, clock=self._clock, age=self._age(letter))
        return Delivered()

    def _age(self, letter: DeadLetter) -> float:
        return self._clock.now().timestamp() - letter.created_at


def _bind(letter: DeadLetter) -> None:
    """In a context of its own, which ends with the sending."""
    bind_context(request_id=letter.request_id if valid_request_id(letter.request_id) else None)


def _one_attempt(policy: RetryPolicy) -> RetryPolicy:
    """The client's own policy without retries: a replay pays into the budget and takes nothing from it."""
    return dataclasses.replace(policy, max_attempts=1, raise_on_status=False)
