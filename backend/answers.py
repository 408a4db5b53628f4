"""What services answer, checked: an answer that is not what was agreed is a failure like any other."""

from __future__ import annotations

from typing import Any, TypeVar

import requests

from service_utils.calls import attach_call, call_of

__all__ = ["BadAnswer", "accepted", "bad_answer", "member", "members"]

T = TypeVar("T")


class BadAnswer(requests.RequestException):
    """A service answered with success, and with a body that means nothing."""


def accepted(response: requests.Response) -> requests.Response:
    """The same response, if it is no error.

    Raises:
        requests.HTTPError: It is, and the error tells which call it comes from.
    """
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        attach_call(error, call_of(response))
        raise
    return response


def bad_answer(response: requests.Response, what: str) -> BadAnswer:
    """The error to raise for a response.

    Args:
        response: One that came out of a client.
        what: What is wrong with it, in words.
    """
    call = call_of(response)
    error = BadAnswer(f"{call.service}: {call.method} {call.path}: {what}", response=response)
    attach_call(error, call)
    return error


def member(response: requests.Response, name: str, kind: type[T]) -> T:
    """A member of the JSON object that a service has answered.

    Raises:
        BadAnswer: The answer is no JSON object, or has no such member of that type.
    """
    value = members(response).get(name)
    if not isinstance(value, kind):
        raise bad_answer(response, f"the answer has no {kind.__name__} {name!r}")
    return value


def members(response: requests.Response) -> dict[str, Any]:
    """The JSON object that a service has answered.

    Raises:
        BadAnswer: It is none.
    """
    try:
        body = response.json()
    except (ValueError, RecursionError):  # no JSON, or a number or nesting that Python does not take
        body = None
    if not isinstance(body, dict):
        raise bad_answer(response, "the answer is no JSON object")
    return body
