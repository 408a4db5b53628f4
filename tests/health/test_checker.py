"""HealthChecker: checks side by side, each with its time-out, their results kept for a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils.events import HealthChecked
from service_utils.health import Finding, HealthChecker, HealthStatus
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import PATIENCE, together

SHORT = 0.02  # real seconds


class Hanging:
    """A check that does not come back before it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = threading.Event()

    def __call__(self) -> None:
        self.begun += 1
        self.go.wait(PATIENCE)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    check = Hanging()
    yield check
    check.go.set()


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def checker(fake_clock: FakeClock, told: list[Any]) -> HealthChecker:
    return HealthChecker(clock=fake_clock, listeners=[told.append])


def fail() -> None:
    raise ConnectionError("postgres://user:s3cret@db/app?password=s3cret refused")


@pytest.mark.parametrize(
    ("check", "status", "detail"),
    [
        (lambda: True, "healthy", ""),
        (lambda: None, "healthy", ""),
        (lambda: False, "unhealthy", ""),
        (lambda: HealthStatus.DEGRADED, "degraded", ""),
        (lambda: "degraded", "degraded", ""),
        (lambda: Finding(HealthStatus.DEGRADED, "3 of 4 shards"), "degraded", "3 of 4 shards"),
        (fail, "unhealthy", "ConnectionError: postgres://db/app?... refused"),
        (lambda: 7, "unhealthy", "TypeError: a check must return True, False, None, a HealthStatus or a"),
        (lambda: "fine", "unhealthy", "TypeError: a check must return"),
        (lambda: exec("raise SystemExit(3)"), "unhealthy", "SystemExit: 3"),
    ],
)
def test_what_a_check_says(
    checker: HealthChecker, check: Callable[[], object], status: str, detail: str
) -> None:
    """Return values and exceptions become a status and a detail without secrets."""
    checker.register("it", check)
    found = checker.check_all().checks["it"]
    assert found.status.value == status
    assert found.detail.startswith(detail)
    assert "s3cret" not in found.detail


@pytest.mark.parametrize(
    ("own", "other", "overall"),
    [
        (True, True, "healthy"),
        (True, False, "degraded"),
        (True, "degraded", "degraded"),
        ("degraded", True, "degraded"),
        (False, True, "unhealthy"),
        (False, False, "unhealthy"),
    ],
)
def test_overall(checker: HealthChecker, own: object, other: object, overall: str) -> None:
    """Only what is our own makes the whole unhealthy; another service that is away makes it degraded."""
    checker.register("database", lambda: own, required_for_ready=True)
    checker.register("chroma", lambda: other)
    assert checker.check_all().overall_status.value == overall


def test_no_checks(checker: HealthChecker) -> None:
    """Who checks nothing is healthy and ready."""
    assert checker.check_all().overall_status is HealthStatus.HEALTHY
    assert checker.ready().ready


def test_checks_run_side_by_side(checker: HealthChecker) -> None:
    """Three checks that need each other's company get it: they run at the same time."""
    company = threading.Barrier(3, timeout=PATIENCE)
    for name in "abc":
        checker.register(name, lambda: company.wait() < 3)
    assert checker.check_all().overall_status is HealthStatus.HEALTHY


def test_results_are_good_for_a_while(checker: HealthChecker, fake_clock: FakeClock) -> None:
    """Within the cache time nothing is checked again, after it everything."""
    runs: list[float] = []
    checker.register("it", lambda: runs.append(fake_clock.monotonic()))
    for _ in range(5):
        checker.check_all()
        fake_clock.advance(7.0)
    assert runs == [0.0]  # asked at 0, 7, 14, 21 and 28
    checker.check_all()
    assert runs == [0.0, 35.0]


def test_many_threads_one_run(checker: HealthChecker) -> None:
    """Sixteen threads that ask at one moment cause one run, and all get its result."""
    runs: list[int] = []
    checker.register("it", lambda: runs.append(1))
    found = together(16, lambda _: checker.check_all().checks["it"])
    assert len(runs) == 1
    assert len({id(each) for each in found}) == 1


def test_a_hanging_check_costs_its_time_once(
    checker: HealthChecker, fake_clock: FakeClock, hanging: Hanging
) -> None:
    """It is unhealthy after its time-out, once; whoever asks later waits no more, and no thread is added."""
    checker.register("it", hanging, timeout=SHORT)
    checker.register("other", lambda: True)
    report = checker.check_all()
    assert report.checks["it"].detail == "no result within 0.02 s"
    assert report.checks["other"].status is HealthStatus.HEALTHY
    for _ in range(3):
        fake_clock.advance(31.0)
        found = checker.check("it")
        assert found.status is HealthStatus.UNHEALTHY
        assert found.detail == f"a run has not ended for {fake_clock.monotonic():.0f} s"
    assert hanging.begun == 1
    assert [thread.name for thread in threading.enumerate()].count("health-it") == 1


def test_a_hanging_check_for_many_threads(checker: HealthChecker, hanging: Hanging, told: list[Any]) -> None:
    """Sixteen threads lose their patience with one run, and it is told once."""
    checker.register("it", hanging, timeout=SHORT)
    found = together(16, lambda _: checker.check("it").detail)
    assert set(found) == {"no result within 0.02 s"}
    assert (hanging.begun, len(told)) == (1, 1)


def test_a_check_that_comes_back(checker: HealthChecker, fake_clock: FakeClock, hanging: Hanging) -> None:
    """When the thread that hung has ended, the next run is a new one."""
    checker.register("it", hanging, timeout=SHORT)
    checker.check_all()
    hanging.go.set()
    for thread in threading.enumerate():
        if thread.name == "health-it":
            thread.join(PATIENCE)
    assert checker.check("it").detail == "no result within 0.02 s"  # still good for a while
    fake_clock.advance(31.0)
    assert checker.check("it").status is HealthStatus.HEALTHY
    assert hanging.begun == 2


def test_history(checker: HealthChecker, fake_clock: FakeClock) -> None:
    """The last results of each check are kept, the oldest ones go."""
    checker = HealthChecker(clock=fake_clock, history_size=3, cache_seconds=0)
    answers = iter([True, False, True, False])
    checker.register("it", lambda: next(answers))
    for _ in range(4):
        checker.check_all()
        fake_clock.advance(1.0)
    assert [each.status.value for each in checker.history("it")] == ["unhealthy", "healthy", "unhealthy"]
    assert checker.last().checks["it"].status is HealthStatus.UNHEALTHY
    with pytest.raises(KeyError, match="no health check is named 'nobody'; there are: it"):
        checker.history("nobody")


def test_last_runs_nothing(checker: HealthChecker) -> None:
    """Reading the last results begins no run."""
    checker.register("it", lambda: pytest.fail("it was run"))
    assert checker.last().checks == {}


def test_ready(checker: HealthChecker) -> None:
    """Ready is who has started, does not end, and whose own things are well; others do not count."""
    own: list[object] = [True]
    checker.register("database", lambda: own[0], required_for_ready=True)
    checker.register("chroma", lambda: pytest.fail("readiness asks no other service"))
    assert checker.ready().ready


@pytest.mark.parametrize(
    ("answer", "ready", "reasons"),
    [
        (True, True, ()),
        ("degraded", True, ()),
        (False, False, ("database",)),
        (Finding(HealthStatus.UNHEALTHY, "locked"), False, ("database: locked",)),
    ],
)
def test_ready_depends_on_our_own(
    checker: HealthChecker, answer: object, ready: bool, reasons: tuple[str, ...]
) -> None:
    """An unhealthy check of our own is a reason, a degraded one is not."""
    checker.register("database", lambda: answer, required_for_ready=True)
    found = checker.ready()
    assert (found.ready, found.reasons) == (ready, reasons)


def test_starting_and_draining(fake_clock: FakeClock) -> None:
    """Before it has started and once it drains a process takes no requests."""
    checker = HealthChecker(clock=fake_clock, starting=True)
    assert checker.ready().reasons == ("starting",)
    checker.started()
    assert checker.ready().ready
    checker.drain()
    assert checker.draining
    assert checker.ready().reasons == ("draining",)


def test_events(checker: HealthChecker, told: list[Any], fake_clock: FakeClock) -> None:
    """Each run is told once, with what it found."""
    checker.register("it", lambda: Finding(HealthStatus.DEGRADED, "slow"))
    checker.check_all()
    checker.check_all()
    (event,) = told
    assert isinstance(event, HealthChecked)
    assert (event.check, event.status, event.detail) == ("it", "degraded", "slow")


def test_as_dict(checker: HealthChecker) -> None:
    """The report is JSON-ready, with the names that dashboards know."""
    checker.register("it", lambda: True)
    found = checker.check_all().as_dict()
    json.dumps(found)
    assert found["overall_status"] == "healthy"
    assert set(found["checks"]["it"]) == {
        "status",
        "response_time_ms",
        "detail",
        "checked_at",
        "required_for_ready",
    }


def test_a_check_takes_anothers_place(checker: HealthChecker) -> None:
    """A second check of a name is the one that counts."""
    checker.register("it", lambda: False)
    checker.check_all()
    checker.register("it", lambda: True)
    assert checker.check_all().overall_status is HealthStatus.HEALTHY


def test_a_forked_child_runs_its_own_checks(checker: HealthChecker, hanging: Hanging) -> None:
    """A run that hangs in the parent is not waited for in a child."""
    checker.register("it", hanging, timeout=SHORT)
    checker.check_all()

    def child() -> str:
        hanging.go = threading.Event()
        hanging.go.set()
        fresh = HealthChecker(cache_seconds=0)
        fresh.register("it", hanging)
        checker._cache_seconds = 0
        return f"{checker.check('it').status} {fresh.check('it').status}"

    assert in_child(child) == "healthy healthy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_seconds": -1}, "cache_seconds=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"history_size": 0}, "history_size=0"),
        ({"name": ""}, "name=''"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """A checker that could not work is refused."""
    with pytest.raises(ValueError, match=message):
        HealthChecker(**arguments)


async def asynchronous() -> bool:
    return False


@pytest.mark.parametrize(
    ("name", "check", "options", "error", "message"),
    [
        ("", lambda: True, {}, ValueError, "name=''"),
        ("it", 7, {}, TypeError, "7: must be a function"),
        ("it", asynchronous, {}, TypeError, "health check"),
        ("it", lambda: True, {"timeout": 0}, ValueError, "timeout=0"),
    ],
)
def test_bad_checks(
    checker: HealthChecker, name: str, check: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    """A check that could not work, such as a coroutine that nobody awaits, is refused when registered."""
    with pytest.raises(error, match=message):
        checker.register(name, check, **options)
