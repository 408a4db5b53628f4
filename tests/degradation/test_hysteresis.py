"""Hysteresis: worse at once, better only after a calm time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service_utils.degradation import Assessment, DegradationLevel
from service_utils.degradation.hysteresis import Hysteresis

NORMAL, MINOR, MODERATE, SEVERE, CRITICAL = DegradationLevel
CALM = 60.0


def follow(*steps: tuple[float, int], raise_after: float = 0.0) -> list[int]:
    """The level after each step, a moment and what the rules come to then."""
    hysteresis = Hysteresis(raise_after, CALM, 0.0)
    levels = []
    for now, target in steps:
        hysteresis.step(now, Assessment(DegradationLevel(target), (f"rule {target}",) if target else ()))
        levels.append(int(hysteresis.level))
    return levels


def test_it_gets_worse_at_once() -> None:
    """Trouble shows in the moment in which it is seen."""
    assert follow((0, 1), (1, 4)) == [1, 4]


def test_it_gets_better_after_a_calm_time_only() -> None:
    """A service that is back has to stay so for a while before features are turned on again."""
    assert follow((0, 3), (10, 0), (69.9, 0), (70, 0)) == [3, 3, 3, 0]


def test_a_relapse_begins_the_calm_time_anew() -> None:
    """A service that comes and goes keeps the level where it is."""
    assert follow((0, 3), (10, 0), (60, 3), (65, 0), (124, 0), (125, 0)) == [3, 3, 3, 3, 3, 0]


def test_it_gets_better_step_by_step() -> None:
    """Each level is left when it was calm below it for long enough, wherever the rules are by then."""
    assert follow((0, 4), (10, 3), (50, 0), (70, 0), (109, 0), (110, 0)) == [4, 4, 4, 3, 3, 0]


def test_a_lesser_trouble_does_not_hold_up_a_greater_ones_end() -> None:
    """A level that is left for a lower one with trouble of its own comes down to that."""
    assert follow((0, 4), (10, 1), (70, 1)) == [4, 4, 1]


def test_it_can_wait_before_it_gets_worse() -> None:
    """With raise_after short trouble is passed over, and each level has to hold for that long itself."""
    steps = ((0, 1), (4, 0), (5, 1), (9, 4), (10, 4), (14, 4))
    assert follow(*steps, raise_after=5.0) == [0, 0, 0, 0, 1, 4]


def test_it_knows_when_it_will_change() -> None:
    """Nobody has to ask again and again when a calm time is over."""
    hysteresis = Hysteresis(5.0, CALM, 0.0)
    assert hysteresis.due() is None
    hysteresis.step(1.0, Assessment(MINOR, ("a",)))
    assert hysteresis.due() == 6.0
    hysteresis.step(6.0, Assessment(MINOR, ("a",)))
    assert hysteresis.due() is None
    hysteresis.step(7.0, Assessment())
    assert hysteresis.due() == 67.0
    hysteresis.step(67.0, Assessment())
    assert (hysteresis.level, hysteresis.due()) == (NORMAL, None)


def test_the_reasons_are_those_that_led_there() -> None:
    """While it is calm the reasons go on to tell what was the matter."""
    hysteresis = Hysteresis(0.0, CALM, 0.0)
    hysteresis.step(0.0, Assessment(CRITICAL, ("dark", "slow")))
    hysteresis.step(1.0, Assessment(MINOR, ("slow",)))
    assert hysteresis.reasons() == ("dark", "slow")
    hysteresis.step(61.0, Assessment(MINOR, ("slow",)))
    assert hysteresis.reasons() == ("slow",)
    hysteresis.step(62.0, Assessment())
    hysteresis.step(122.0, Assessment())
    assert hysteresis.reasons() == ()


def test_it_says_when_it_can_be_better() -> None:
    """The earliest moment counts from the beginning of the calm time, or from now while there is trouble."""
    hysteresis = Hysteresis(0.0, CALM, 0.0)
    hysteresis.step(0.0, Assessment(SEVERE, ("a",)))
    assert hysteresis.earliest_at_most(MODERATE, 5.0) == 65.0
    hysteresis.step(10.0, Assessment())
    assert hysteresis.earliest_at_most(MODERATE, 30.0) == 70.0
    assert hysteresis.earliest_at_most(SEVERE, 30.0) == 30.0


STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 20), st.floats(0, 200), st.just(CALM)), st.sampled_from(DegradationLevel)
    ),
    min_size=1,
    max_size=40,
)


@given(steps=STEPS, raise_after=st.sampled_from([0.0, 5.0, 90.0]))
def test_it_never_flaps(steps: list[tuple[float, DegradationLevel]], raise_after: float) -> None:
    """Whatever the services do, a level that has got worse does not get better within the calm time."""
    hysteresis, now, last_worse = Hysteresis(raise_after, CALM, 0.0), 0.0, None
    for wait, target in steps:
        now += wait
        before = hysteresis.level
        hysteresis.step(now, Assessment(target, ("why",) if target else ()))
        if hysteresis.level > before:
            last_worse = now
        if hysteresis.level < before:
            assert last_worse is not None
            assert now >= last_worse + CALM


@given(steps=STEPS)
def test_trouble_is_never_hidden(steps: list[tuple[float, DegradationLevel]]) -> None:
    """The level is never better than what the rules come to, and never worse than they came to lately."""
    hysteresis, now = Hysteresis(0.0, CALM, 0.0), 0.0
    held: list[tuple[float, DegradationLevel]] = []  # until when the rules came to what
    target = NORMAL
    for wait, following in steps:
        now += wait
        held.append((now, target))
        target = following
        hysteresis.step(now, Assessment(target, ("why",) if target else ()))
        lately = [level for until, level in held if until + CALM > now]
        assert target <= hysteresis.level <= max([target, *lately])
        assert (hysteresis.reasons() == ()) is (hysteresis.level is NORMAL)


@given(steps=STEPS, raise_after=st.sampled_from([0.0, 5.0, 90.0]))
def test_it_changes_when_it_has_said_so(
    steps: list[tuple[float, DegradationLevel]], raise_after: float
) -> None:
    """Asked at the moment it named, with nothing new, it has changed; asked before, it has not."""
    hysteresis, now = Hysteresis(raise_after, CALM, 0.0), 0.0
    for wait, target in steps:
        now += wait
        assessment = Assessment(target, ("why",) if target else ())
        hysteresis.step(now, assessment)
        due, level = hysteresis.due(), hysteresis.level
        if due is not None:
            assert due > now
            hysteresis.step((now + due) / 2, assessment) if (now + due) / 2 < due else None
            assert hysteresis.level is level
            now = due
            hysteresis.step(now, assessment)
            assert hysteresis.level is not level
