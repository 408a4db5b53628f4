"""Rules: which level follows from what is open and what is unhealthy."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.degradation import (
    Condition,
    DegradationLevel,
    DegradationRules,
    Rule,
    Snapshot,
    all_of,
    any_of,
    at_least,
    is_open,
    rules_by_share,
    share_open,
    unhealthy,
    weight_of,
)
from service_utils.events import CircuitState

MINOR, SEVERE, CRITICAL = DegradationLevel.MINOR, DegradationLevel.SEVERE, DegradationLevel.CRITICAL
SERVICES = ("a", "b", "c", "d")
CHECKS = ("database", "disk")


def seen(*opened: str, sick: tuple[str, ...] = ()) -> Snapshot:
    """All services of these tests, some of them open, and all checks."""
    circuits = {name: CircuitState.OPEN if name in opened else CircuitState.CLOSED for name in SERVICES}
    return Snapshot(circuits, {name: "unhealthy" if name in sick else "healthy" for name in CHECKS})


@pytest.mark.parametrize(
    ("state", "holds"),
    [
        (CircuitState.OPEN, True),
        (CircuitState.FORCED_OPEN, True),
        (CircuitState.HALF_OPEN, False),
        (CircuitState.CLOSED, False),
        (CircuitState.DISABLED, False),
    ],
)
def test_open_is_what_refuses_calls(state: CircuitState, holds: bool) -> None:
    """A circuit counts as open while it refuses calls, by itself or by hand."""
    assert is_open("a")(Snapshot({"a": state})) is holds


@pytest.mark.parametrize(("status", "holds"), [("unhealthy", True), ("degraded", False), ("healthy", False)])
def test_unhealthy_is_what_a_check_calls_so(status: str, holds: bool) -> None:
    """A degraded thing is not yet an unhealthy one."""
    assert unhealthy("disk")(Snapshot(health={"disk": status})) is holds


def test_nobody_knows_of_a_service_that_is_not_there() -> None:
    """What a rule names and nobody has registered is neither open nor unhealthy."""
    assert not any_of("a", unhealthy("disk"))(Snapshot())


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (all_of("a", "b"), ["ab", "abc"]),
        (any_of("a", "b"), ["a", "b", "ab", "ac", "abc"]),
        (at_least(2, "a", "b", "c"), ["ab", "ac", "abc"]),
        (any_of("c", all_of("a", "b")), ["c", "ab", "ac", "abc"]),
        (weight_of({"a": 3, "b": 1, "c": 1}, 2), ["a", "ab", "ac", "abc"]),
        (share_open(0.5), ["ab", "ac", "abc"]),
        (share_open(0.0), ["a", "b", "c", "ab", "ac", "abc"]),
    ],
    ids=["all_of", "any_of", "at_least", "nested", "weight", "share", "share of nothing"],
)
def test_combinations(condition: Condition, holds: list[str]) -> None:
    """Services can be asked for together, by number, by weight and by share."""
    cases = ["", "a", "b", "c", "ab", "ac", "abc"]
    assert [case for case in cases if condition(seen(*case))] == holds


def test_fractions_add_up() -> None:
    """Weights that people write as fractions add up as people expect, not as floating point does."""
    assert weight_of({"a": 0.7, "b": 0.1, "c": 5}, 0.8)(seen("a", "b"))


def test_the_worst_rule_that_holds_gives_the_level() -> None:
    """The level is the worst of all rules that hold, and the reasons are those of all, worst first."""
    rules = DegradationRules(
        Rule(MINOR, "a", "search degraded"), Rule(SEVERE, "b", "no money"), Rule(CRITICAL, "c", "dark")
    )
    assessment = rules.assess(seen("a", "b"))
    assert assessment.level is SEVERE
    assert assessment.reasons == ("no money", "search degraded")


def test_nothing_open_is_normal() -> None:
    """Where no rule holds everything is normal, and there is nothing to explain."""
    assessment = DegradationRules(critical=["a"]).assess(seen("b"))
    assert assessment.level is DegradationLevel.NORMAL
    assert assessment.reasons == ()


def test_a_sentence_is_said_once() -> None:
    """Two rules that give one reason, such as two steps of one weight, do not repeat it."""
    rules = DegradationRules(Rule(MINOR, "a", "slow"), Rule(SEVERE, any_of("a", "b"), "slow"))
    assert rules.assess(seen("a")).reasons == ("slow",)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (is_open("a"), "a open"),
        (any_of("a", "c", "b"), "a open, b open"),
        (unhealthy("disk"), "disk unhealthy"),
        (all_of("a", unhealthy("disk")), "a open, disk unhealthy"),
        (weight_of({"a": 2, "b": 1, "c": 1}, 2.5), "weight 3 of 2.5: a, b open"),
        (share_open(0.5), "2 of 4 circuits open"),
    ],
    ids=["open", "any_of", "unhealthy", "all_of", "weight", "share"],
)
def test_a_rule_without_words_says_what_is_the_matter(condition: Condition, reason: str) -> None:
    """A rule that was given no reason names what is open or unhealthy at the moment."""
    assert Rule(MINOR, condition).says(seen("a", "b", sick=("disk",))) == reason


def test_lists_by_level() -> None:
    """Rules can be given as a list of services or conditions per level."""
    rules = DegradationRules(
        critical=["a"], severe=[all_of("b", "c")], moderate=["b"], minor=[unhealthy("disk")]
    )
    levels = [
        rules.assess(each).level.label
        for each in (seen("a"), seen("b", "c"), seen("b"), seen(sick=("disk",)))
    ]
    assert levels == ["critical", "severe", "moderate", "minor"]
    assert rules.services == {"a", "b", "c"}
    assert rules.checks == {"disk"}


def test_weights_with_thresholds() -> None:
    """Services have weights, and levels are reached at sums of them."""
    rules = DegradationRules(
        weights={"a": 1, "b": 1, "c": 3}, thresholds={"minor": 1, "severe": 3, CRITICAL: 5}
    )
    levels = [rules.assess(seen(*opened)).level.label for opened in ("", "a", "ab", "c", "ac", "abc")]
    assert levels == ["normal", "minor", "minor", "severe", "severe", "critical"]


def test_shares_need_no_names() -> None:
    """For a start there are rules that go by the share of open circuits alone."""
    rules = rules_by_share()
    levels = [rules.assess(seen(*opened)).level.label for opened in ("", "a", "ab", "abc", "abcd")]
    assert levels == ["normal", "moderate", "severe", "severe", "critical"]
    assert rules.assess(Snapshot()).level is DegradationLevel.NORMAL


def test_a_condition_of_ones_own() -> None:
    """Any function of a snapshot is a condition; its name is the reason where none is given."""

    def night_shift(snapshot: Snapshot) -> bool:
        return snapshot.is_open("a") and not snapshot.is_open("b")

    assert DegradationRules(Rule(MINOR, night_shift)).assess(seen("a")).reasons == ("night_shift",)


def test_a_condition_that_fails_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one condition is logged and leaves the other rules alone."""

    def broken(_: Snapshot) -> bool:
        raise KeyError("bug")

    rules = DegradationRules(Rule(CRITICAL, broken), Rule(MINOR, "a"))
    with caplog.at_level(logging.ERROR, "service_utils"):
        assert rules.assess(seen("a")).level is MINOR
    assert "degradation rule for critical failed" in caplog.text


def test_a_snapshot_stays_as_it_was() -> None:
    """What changes after a snapshot was taken is not in it, and nobody can change it."""
    circuits = {"a": CircuitState.OPEN}
    snapshot = Snapshot(circuits)
    circuits["a"] = CircuitState.CLOSED
    assert snapshot.is_open("a")
    with pytest.raises(TypeError):
        snapshot.circuits["a"] = CircuitState.CLOSED  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Rule("normal", "a"), ValueError, "level='normal'"),
        (lambda: Rule("bad", "a"), ValueError, "level='bad'"),
        (lambda: Rule(MINOR, ""), ValueError, "service=''"),
        (lambda: Rule(MINOR, 5), TypeError, "5: must be the name of a service or a condition"),
        (lambda: Rule(MINOR, "a", " "), ValueError, "reason=' '"),
        (all_of, ValueError, r"parts=\(\)"),
        (any_of, ValueError, r"parts=\(\)"),
        (lambda: all_of("a", "a"), ValueError, "names one twice"),
        (lambda: at_least(3, "a", "b"), ValueError, "number=3: must be at most 2"),
        (lambda: at_least(0, "a"), ValueError, "number=0"),
        (lambda: unhealthy(""), ValueError, "check=''"),
        (lambda: unhealthy(None), TypeError, "check=None"),
        (lambda: weight_of({}, 1), ValueError, "weights={}"),
        (lambda: weight_of({"a": 0}, 1), ValueError, r"weights\['a'\]=0"),
        (lambda: weight_of({"a": float("nan")}, 1), ValueError, r"weights\['a'\]=nan"),
        (lambda: weight_of({"a": 1}, 2), ValueError, "least=2: is never reached"),
        (lambda: share_open(1.5), ValueError, "least=1.5"),
        (DegradationRules, ValueError, r"rules=\(\)"),
        (lambda: DegradationRules("a"), TypeError, "'a': must be a Rule"),
        (lambda: DegradationRules(critical="billing"), TypeError, "critical='billing'"),
        (lambda: DegradationRules(weights={"a": 1}), ValueError, "given together"),
        (lambda: DegradationRules(thresholds={"minor": 1}), ValueError, "given together"),
        (
            lambda: DegradationRules(weights={"a": 9}, thresholds={"minor": 5, "severe": 1}),
            ValueError,
            "a worse level must not need less",
        ),
    ],
)
def test_a_rule_that_makes_no_sense(make: Any, error: type[Exception], words: str) -> None:
    """A bad rule is refused where it is made, by name and value."""
    with pytest.raises(error, match=words):
        make()


def conditions() -> st.SearchStrategy[Condition]:
    """Every sort of condition, nested."""
    names = st.sampled_from(SERVICES)
    simple = st.one_of(
        names.map(is_open),
        st.sampled_from(CHECKS).map(unhealthy),
        st.sampled_from([0.0, 0.25, 0.5, 1.0]).map(share_open),
        st.dictionaries(names, st.integers(1, 5), min_size=1).flatmap(
            lambda weights: st.integers(1, sum(weights.values())).map(lambda least: weight_of(weights, least))
        ),
    )
    return st.recursive(
        simple,
        lambda inner: st.lists(inner, min_size=1, max_size=4, unique=True).flatmap(
            lambda parts: st.integers(1, len(parts)).map(lambda number: at_least(number, *parts))
        ),
        max_leaves=6,
    )


@given(
    rules=st.lists(
        st.builds(Rule, st.sampled_from(list(DegradationLevel)[1:]), conditions()), min_size=1, max_size=6
    ),
    opened=st.sets(st.sampled_from(SERVICES)),
    sick=st.sets(st.sampled_from(CHECKS)),
    more=st.sets(st.sampled_from((*SERVICES, *CHECKS))),
)
def test_more_trouble_never_makes_a_better_level(
    rules: list[Rule], opened: set[str], sick: set[str], more: set[str]
) -> None:
    """Where further circuits open, or further checks become unhealthy, the level never gets better."""
    all_rules = DegradationRules(*rules)
    before = all_rules.assess(seen(*opened, sick=tuple(sick)))
    after = all_rules.assess(seen(*(opened | more), sick=tuple(sick | more)))
    assert after.level >= before.level
    assert (after.level is DegradationLevel.NORMAL) is (after.reasons == ())
