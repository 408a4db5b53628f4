"""Chat: the user gets the answer or keeps the money.

The order of things: money is set aside, the context is found, the answer is made, its real cost is taken;
only then is it written down. Whatever fails before the money is taken gives it back; whatever fails
afterwards must not cost the user his answer.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from backend.config import Settings
from backend.history import ChatHistory, HistoryEntry
from backend.llm import Answer, Answerer
from backend.models import ChatRequest
from backend.money import Billing, Settlement
from backend.search import Found, Search
from backend.snapshots import Snapshots
from backend.timing import within
from service_utils import best_effort

__all__ = ["Chat", "Reply", "cost_of"]

logger = logging.getLogger(__name__)

_EXCERPTS = 5
_KEEP_FOR_MONEY = 6.0
_TOKENS_PER_PRICE = 1_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What the user is told; the fields are those of the JSON answer.

    Attributes:
        answer: The answer.
        answered_by: ``llm``, ``llm_fallback`` or ``local``.
        model: The model that made it, or None.
        source: Where the context was found: ``chroma``, ``filesystem`` or ``index``.
        sources: The documents it was found in.
        billing: ``status`` (``charged``, or ``pending`` when Billing did not confirm), ``amount`` in
            micro-units and ``currency``.
        history: Where the exchange is written down: ``filesystem``, ``memory`` or None.
        snapshot: The commit, or None.
        degraded: Whether any part of this was not done by the one who should have done it.
    """

    answer: str
    answered_by: str
    model: str | None
    source: str
    sources: list[dict[str, Any]]
    billing: dict[str, Any]
    history: str | None
    snapshot: str | None
    degraded: bool

    def as_json(self) -> dict[str, Any]:
        """The fields in a dict."""
        return asdict(self)


def cost_of(answer: Answer, settings: Settings) -> int:
    """What an answer costs in micro-units: never more than what was reserved for it."""
    tokens = -(-answer.tokens * settings.chat_price_per_1k_tokens // _TOKENS_PER_PRICE)
    return min(settings.chat_base_price + tokens, settings.chat_reserve)


class Chat:
    """Answers messages.

    Args:
        billing: The user's money.
        search: Where the context comes from.
        answerer: Who answers.
        history: Where the exchange is written down.
        snapshots: Git.
        settings: Prices.
    """

    def __init__(
        self,
        billing: Billing,
        search: Search,
        answerer: Answerer,
        history: ChatHistory,
        snapshots: Snapshots,
        settings: Settings,
    ) -> None:
        self._billing = billing
        self._search = search
        self._answerer = answerer
        self._history = history
        self._snapshots = snapshots
        self._settings = settings

    def reply(self, user: str, request: ChatRequest, key: str) -> Reply:
        """Answer a message and take what the answer costs.

        Args:
            user: Who asks and pays.
            request: What he asks.
            key: Of this request; repeating it with the same key never takes money twice.

        Raises:
            requests.RequestException: Billing is away; no money is taken.
            Refusal: Billing refused; no money is taken.
        """
        settings = self._settings
        with self._billing.reserved(user, settings.chat_reserve, settings.chat_currency, key) as reservation:
            with within(keep=_KEEP_FOR_MONEY):
                found, answer = self._make(request)
            cost = cost_of(answer, settings)
            settlement = self._billing.capture(reservation, cost)
        return self._written_down(user, request, found, answer, cost, settlement)

    def _make(self, request: ChatRequest) -> tuple[Found, Answer]:
        found = self._search.run(request.message, request.project_id, _EXCERPTS)
        return found, self._answerer.answer(request.message, found.texts)

    def _written_down(
        self,
        user: str,
        request: ChatRequest,
        found: Found,
        answer: Answer,
        cost: int,
        settlement: Settlement,
    ) -> Reply:
        history = snapshot = None
        entry = HistoryEntry(
            user=user, message=request.message, answer=answer.text, answered_by=answer.answered_by
        )
        # The user has paid: not even a bug of ours may take the answer from him now.
        with best_effort("chat history", catch=Exception) as effort:
            history = self._history.append(request.project_id, entry)
            snapshot = self._snapshots.take(request.project_id, "Chat", user)
        if effort.error is not None:
            logger.error("An answer that is paid for could not be written down", exc_info=effort.error)
        return Reply(
            answer=answer.text,
            answered_by=answer.answered_by,
            model=answer.model,
            source=found.source,
            sources=[
                {name: each[name] for name in ("id", "file_path") if name in each} for each in found.results
            ],
            billing={
                "status": settlement.value,
                "amount": cost,
                "currency": self._settings.chat_currency,
            },
            history=history,
            snapshot=snapshot,
            degraded=found.degraded or answer.degraded or history != "filesystem" or snapshot is None,
        )
