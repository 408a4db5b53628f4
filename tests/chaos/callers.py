"""Those who charge: each keeps to what he was told, and to nothing else."""

from __future__ import annotations

from random import Random
from typing import Any

import requests

from service_utils import best_effort
from service_utils.clock import SYSTEM
from service_utils.dead_letters import DeadLetterQueue
from tests.chaos.books import Charge, Story, Told, Way
from tests.chaos.postman import clients
from tests.chaos.world import World

_PATIENCE = 1.5  # seconds that a caller waits for an answer
_NOTHING_DONE = frozenset({400, 402, 404, 422})
_TOO_MUCH = 2_000_000_000  # more than an account has

_SHARES = {Way.DEDUCT: 0.55, Way.CHAT: 0.1, Way.DIRECT: 0.35}


def make_charges(number: int, random: Random) -> list[Charge]:
    """So many charges of all ways; some of them more than the account has."""
    made = []
    for index in range(number):
        (way,) = random.choices(list(_SHARES), list(_SHARES.values()))
        name = f"{way}-{index}"
        user = name if way is Way.CHAT else f"{way}-user-{random.randrange(4)}"
        affordable = way is Way.CHAT or random.random() >= 0.03
        amount = random.randint(1, 1000) if affordable else _TOO_MUCH
        tries = random.choice([1, 1, 2, 4])
        made.append(Charge(name, user, 0 if way is Way.CHAT else amount, way, tries, affordable))
    return made


class Caller:
    """One of them, with connections of his own.

    Args:
        world: Where he lives.
        queue: Where his failed calls are kept.
        random: How long he waits before he asks again.
    """

    def __init__(self, world: World, queue: DeadLetterQueue, random: Random) -> None:
        self._world = world
        self._queue = queue
        self._random = random
        self._session = requests.Session()
        self._session.trust_env = False
        self._registry = clients({"billing": world.services["billing"].url})

    def close(self) -> None:
        """Hang up."""
        self._session.close()
        self._registry.close()

    def charge(self, charge: Charge) -> Story:
        """Charge, and tell what became of it."""
        if charge.way is Way.DIRECT:
            return self._direct(charge)
        return self._by_the_backend(charge, charge.tries)

    def ask_again(self, charge: Charge, tries: int) -> Story:
        """Repeat it under its key until it is settled."""
        return self._by_the_backend(charge, tries, pause=0.2)

    def _direct(self, charge: Charge) -> Story:
        client = self._registry.get("billing")
        assert client is not None
        body = {
            "user": charge.user, "amount": charge.amount, "currency": "USD", "description": charge.name
        }  # fmt: skip
        number = None
        with best_effort(charge.name, dead_letters=self._queue) as effort:
            response = client.post("/deduct_cost", json=body, idempotency_key=charge.key)
            number = response.json()["entry_id"]
        if effort.ok:
            return Story(charge, Told.CHARGED, number)
        answer = getattr(effort.error, "response", None)
        if answer is not None and answer.status_code in _NOTHING_DONE:
            return Story(charge, Told.REFUSED, answers=(str(answer.status_code),))
        # Without a letter it would be lost: that is for the books to find.
        return Story(charge, Told.KEPT, letter=effort.letter_id, answers=(str(effort.error),))

    def _by_the_backend(self, charge: Charge, tries: int, pause: float = 0.05) -> Story:
        answers: list[str] = []
        told: list[Told] = []
        for turn in range(tries):
            if turn:
                SYSTEM.sleep(self._random.uniform(0, 2 * pause))
            answer = self._post(charge)
            if answer is None:
                answers.append("no answer")
                told.append(Told.UNKNOWN)
                continue
            answers.append(f"{answer.status_code} {answer.text.strip()[:200]}")
            told.append(_told(charge, answer))
            if told[-1] is Told.CHARGED:
                return Story(charge, Told.CHARGED, _entry(charge, answer), answers=tuple(answers))
            if charge.way is Way.DEDUCT and told[-1] is Told.REFUSED:
                return Story(charge, Told.REFUSED, answers=tuple(answers))
            if _is_pending(charge, answer):
                return Story(charge, Told.UNKNOWN, answers=tuple(answers))
        refused = all(each is Told.REFUSED for each in told)
        return Story(charge, Told.REFUSED if refused else Told.UNKNOWN, answers=tuple(answers))

    def _post(self, charge: Charge) -> requests.Response | None:
        if charge.way is Way.CHAT:
            path, body = "chat", {"project_id": "chaos", "message": f"What does {charge.name} cost?"}
        else:
            path, body = "billing/deduct", _deduction(charge)
        headers = {
            "Authorization": f"Bearer {self._world.ticket(charge.user)}", "Idempotency-Key": charge.key
        }  # fmt: skip
        url = f"{self._world.front.url}/v1/api/{path}"
        try:
            answer = self._session.post(url, json=body, headers=headers, timeout=_PATIENCE)
            answer.json()
        except requests.RequestException:
            # Nothing came, or what came is no answer: requests takes a head that was cut off for a whole one.
            return None
        return answer


def _deduction(charge: Charge) -> dict[str, Any]:
    return {"amount": charge.amount, "currency": "USD", "description": charge.name}


def _told(charge: Charge, answer: requests.Response) -> Told:
    if answer.ok:
        return Told.UNKNOWN if _is_pending(charge, answer) else Told.CHARGED
    if charge.way is Way.CHAT:
        # An error from there says that no money was taken; 409, that an earlier request may be taking it.
        return Told.UNKNOWN if answer.status_code == 409 else Told.REFUSED
    return Told.REFUSED if answer.status_code in _NOTHING_DONE else Told.UNKNOWN


def _is_pending(charge: Charge, answer: requests.Response) -> bool:
    return charge.way is Way.CHAT and answer.ok and answer.json()["billing"]["status"] == "pending"


def _entry(charge: Charge, answer: requests.Response) -> int | None:
    return None if charge.way is Way.CHAT else int(answer.json()["entry_id"])
