"""FallbackChain: what it says of one run, and of all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from service_utils.errors import CircuitOpenError
from service_utils.events import FallbackUsed, subscribe
from service_utils.policies.fallback import FallbackChain, Step, StepOutcome, Strategy
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together


class Shut:
    """A circuit that is open."""

    def check(self) -> None:
        raise CircuitOpenError("LLM", 3.0)


def away() -> str:
    raise requests.ConnectionError("http://user:secret@gpt/?key=secret is away")


def canned() -> str:
    return "canned"


def chain_of_three(clock: FakeClock) -> FallbackChain:
    def slow() -> str:
        clock.advance(2)
        return away()

    return FallbackChain(
        "answer", [Strategy("llm", canned, breaker=Shut()), ("gpt", slow), canned], clock=clock
    )


def test_steps_of_a_run() -> None:
    """The report holds the answer, and of each strategy what became of it, how long it took and why."""
    report = chain_of_three(FakeClock()).run_report()
    assert (report.answer, report.strategy) == ("canned", "canned")
    assert report.steps == (
        Step("llm", StepOutcome.SKIPPED, 0.0, "LLM: circuit breaker is open, next try in 3.0 s"),
        Step("gpt", StepOutcome.FAILURE, 2.0, "http://gpt/?... is away"),
        Step("canned", StepOutcome.SUCCESS, 0.0, None),
    )


def test_report_is_json_ready_and_holds_no_answer() -> None:
    """What is shown of a run has no user data and no secrets in it."""
    report = chain_of_three(FakeClock()).run_report()
    shown = json.dumps(report.as_dict())
    assert json.loads(shown)["steps"][1] == {
        "name": "gpt",
        "outcome": "failure",
        "duration": 2.0,
        "error": "http://gpt/?... is away",
    }
    assert "answer=" not in repr(report)
    assert "secret" not in shown + repr(report)


def test_report_of_a_run_in_which_all_failed() -> None:
    """The last exception has the report, too."""
    with pytest.raises(requests.ConnectionError) as caught:
        FallbackChain("answer", [away]).run()
    report: Any = caught.value.report  # type: ignore[attr-defined]
    assert (report.strategy, [step.outcome.value for step in report.steps]) == (None, ["failure"])


def test_mistakes_have_no_report() -> None:
    """A mistake passes as it is."""

    def mistaken() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        FallbackChain("answer", [mistaken, canned]).run()
    assert not hasattr(caught.value, "report")


def test_skipped_fallbacks_are_told() -> None:
    """A fallback that is skipped is told as such; a first choice that is skipped is no fallback."""
    told: list[tuple[str, str, str]] = []

    def listen(event: Any) -> None:
        if isinstance(event, FallbackUsed):
            told.append((event.strategy, event.status, event.reason))

    unsubscribe = subscribe(listen)
    try:
        strategies = [Strategy(name, canned, breaker=Shut()) for name in ("first", "second")]
        FallbackChain("answer", [*strategies, canned]).run()
    finally:
        unsubscribe()
    assert told == [("second", "skipped", "circuit open"), ("canned", "success", "circuit open")]


def test_statistics() -> None:
    """The status counts the outcomes of each strategy, with the mean time of those that were called."""
    chain = chain_of_three(FakeClock())
    for _ in range(3):
        chain.run()
    strategies = chain.get_status()["strategies"]
    assert strategies["gpt"] == {
        "success": 0,
        "failure": 3,
        "skipped": 0,
        "timeout": 0,
        "mean_seconds": 2.0,
        "last_error": "http://gpt/?... is away",
        "hung": 0,
    }
    assert (strategies["llm"]["skipped"], strategies["llm"]["mean_seconds"]) == (3, None)
    assert strategies["canned"]["success"] == 3


def test_statistics_of_many_threads_add_up() -> None:
    """No run is lost when many threads use a chain."""
    chain = FallbackChain("answer", [away, canned])
    together(4, lambda _: [chain.run() for _ in range(50)])
    assert chain.get_status()["strategies"]["canned"]["success"] == 200


def test_statistics_begin_anew_in_a_forked_child() -> None:
    """A child counts its own runs only."""
    chain = FallbackChain("answer", [canned])
    chain.run()
    assert in_child(lambda: chain.get_status()["strategies"]["canned"]["success"]) == 0
