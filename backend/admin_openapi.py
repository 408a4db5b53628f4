"""What the document of the API says of the admin API, which comes with ``ServiceUtils``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backend.services.openapi import Operation, Security

__all__ = ["ADMIN_OPERATIONS"]

_ADMIN = Security("admin", {"type": "http", "scheme": "bearer"})
_NAME = {"name": {"type": "string", "minLength": 1, "maxLength": 64}}
_LETTER = {"letter_id": {"type": "string", "pattern": "^[0-9A-Z]{26}$"}}
_OFF = {404: "there is no such thing, or ADMIN_TOKEN is not set", 429: "too many wrong tokens"}
_OLD = {409: "it is older than 30 days; `force` sends it all the same"}

Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reason(_Fields):
    """Why something is done."""

    reason: Words


class SomeReason(_Fields):
    """Why something is done, for who wants to say so."""

    reason: Words | None = None


class LevelToSet(_Fields):
    """A level of degradation, until the rules decide again. The fields may be in the query string, too."""

    level: Literal["normal", "minor", "moderate", "severe", "critical"]
    reason: Words
    expires_in: Annotated[float, Field(gt=0)] | Literal["never"] = 3600.0


class OneRetry(_Fields):
    """Another try of one letter."""

    reason: Words | None = None
    force: bool = False


class ManyRetries(OneRetry):
    """Another try of many letters."""

    service: str | None = None
    status: Literal["pending", "leased", "dead"] = "dead"


class Purge(_Fields):
    """Which letters to remove for good."""

    reason: Words
    service: str | None = None
    status: Literal["pending", "leased", "dead"] | None = None
    older_than: Annotated[float, Field(ge=0)] | None = None


class LettersQuery(_Fields):
    """Which letters to show."""

    service: str | None = None
    status: Literal["pending", "leased", "dead"] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    after: str | None = None


class LetterQuery(_Fields):
    """Whether to show a letter's body."""

    body: bool = False


class EntriesQuery(_Fields):
    """How many entries to show."""

    limit: Annotated[int, Field(ge=1, le=500)] = 100


def _look(summary: str, answer: str, **more: object) -> Operation:
    return Operation(summary=summary, answer=answer, security=_ADMIN, problems=_OFF, **more)  # type: ignore[arg-type]


def _act(summary: str, answer: str, body: type[BaseModel], **more: object) -> Operation:
    return Operation(
        summary=summary,
        answer=answer,
        body=body,
        security=_ADMIN,
        problems={**_OFF, 415: "the body is no JSON"},
        **more,  # type: ignore[arg-type]
    )


_STATUS = "The status of the service"
_OPERATIONS = {
    "overview": _look("What people on call see first", "Services, level, changes and dead letters"),
    "circuits": _look("All circuits", "The status of each service, and which are open"),
    "circuit": _look("One circuit", _STATUS, path=_NAME),
    "reset": _act("Close a circuit by hand", _STATUS, Reason, path=_NAME),
    "force_open": _act("Open a circuit by hand, until it is reset", _STATUS, Reason, path=_NAME),
    "disable": _act("Let all calls through, until the circuit is reset", _STATUS, Reason, path=_NAME),
    "probe": Operation(
        summary="Ask a service's health path, past its circuit",
        answer="How it is",
        path=_NAME,
        security=_ADMIN,
        problems=_OFF,
    ),
    "degradation": _look("The level of degradation", "Level, reasons, override and history"),
    "set_level": _act("Set the level by hand", "The level", LevelToSet),
    "clear_level": _act("Let the rules decide", "The level", SomeReason),
    "letters": _look(
        "Dead letters, oldest first", "A page of them, and how many there are", query=LettersQuery
    ),
    "letter": _look("One dead letter", "All that is known of it", path=_LETTER, query=LetterQuery),
    "retry_letter": _act("Have a letter tried again", "Whether it will be", OneRetry, path=_LETTER),
    "retry_letters": _act("Have many letters tried again", "How many", ManyRetries),
    "purge_letters": _act("Remove letters for good", "How many", Purge),
    "report": _look("The reliability report", "How the services have been doing"),
    "config": _look("How the services are set up", "Limits, times and numbers of each"),
    "audit": _look("What operators did", "Who, what, when and why, latest first", query=EntriesQuery),
}

ADMIN_OPERATIONS = {f"service_utils_admin.{name}": each for name, each in _OPERATIONS.items()}
"""By endpoint."""
