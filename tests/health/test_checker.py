"""HealthChecker: checks side by side, each with its time-out, their results kept for a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_utils.events import HealthChecked
from service_utils.health import Finding, HealthChecker, HealthStatus
from service_utils.health.running import Run
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import PATIENCE, together

SHORT = 0.02  # real seconds
ENOUGH_TO_BEGIN = 0.25  # a thread on a crowded machine has had a turn by then


class Hanging:
    """A check that does not come back before it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = threading.Event()
        self.over = threading.Event()

    def __call__(self) -> None:
        self.begun += 1
        self.go.wait(PATIENCE)
        self.over.set()


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
        (lambda: {"dsn": "s3cret"}, "unhealthy", "TypeError: a check must return"),
        (lambda: exec("raise SystemExit(3)"), "unhealthy", "SystemExit: 3"),
        (lambda: Finding("degraded", "password=s3cret is wrong"), "degraded", "password=... is wrong"),  # type: ignore[arg-type]
        (lambda: Finding("fine"), "unhealthy", "ValueError: 'fine' is not a valid HealthStatus"),  # type: ignore[arg-type]
        (lambda: Finding(HealthStatus.HEALTHY, b"s3cret"), "unhealthy", "TypeError: detail: must be words"),  # type: ignore[arg-type]
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
    checker.register("it", hanging, timeout=ENOUGH_TO_BEGIN)
    checker.register("other", lambda: True, timeout=PATIENCE)
    report = checker.check_all()
    assert report.checks["it"].detail == "no result within 0.25 s"
    assert report.checks["other"].status is HealthStatus.HEALTHY
    for _ in range(3):
        fake_clock.advance(31.0)
        found = checker.check("it")
        assert found.status is HealthStatus.UNHEALTHY
        assert found.detail == f"a run has not ended for {fake_clock.monotonic():.0f} s"
    assert hanging.begun == 1


def test_a_hanging_check_for_many_threads(checker: HealthChecker, hanging: Hanging, told: list[Any]) -> None:
    """Sixteen threads lose their patience with one run, and it is told once."""
    checker.register("it", hanging, timeout=ENOUGH_TO_BEGIN)
    found = together(16, lambda _: checker.check("it").detail)
    assert set(found) == {"no result within 0.25 s"}
    assert (hanging.begun, len(told)) == (1, 1)


def test_a_check_that_comes_back(checker: HealthChecker, fake_clock: FakeClock, hanging: Hanging) -> None:
    """When the thread that hung has ended, the next run is a new one."""
    checker.register("it", hanging, timeout=ENOUGH_TO_BEGIN)
    checker.check_all()
    checker._checks["it"].timeout = PATIENCE  # the next run shall not fail because this machine is busy
    hanging.go.set()
    while checker._checks["it"]._run is not None:
        hanging.over.wait(PATIENCE)
    assert checker.check("it").detail == "no result within 0.25 s"  # still good for a while
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


def test_a_forked_child_runs_its_own_checks(
    checker: HealthChecker, fake_clock: FakeClock, hanging: Hanging
) -> None:
    """A run that hangs in the parent is not waited for in a child, which knows what was found before."""
    checker.register("it", hanging, timeout=ENOUGH_TO_BEGIN)
    checker.check_all()
    checker._checks["it"].timeout = PATIENCE

    def child() -> tuple[str, ...]:
        before = checker.check("it").status.value
        hanging.go = threading.Event()
        hanging.go.set()
        fake_clock.advance(31.0)
        return before, checker.check("it").status.value

    assert in_child(child) == ("unhealthy", "healthy")
    assert hanging.begun == 1


def test_a_fork_while_somebody_waits(checker: HealthChecker, hanging: Hanging) -> None:
    """Who waits in the parent and finds himself in a child does not wait for the parent's thread."""
    checker.register("it", hanging, timeout=PATIENCE)
    registered = checker._checks["it"]
    run = registered.look(30.0)

    def child() -> str:
        hanging.go = threading.Event()
        hanging.go.set()
        assert isinstance(run, Run)
        return registered.wait(run).status.value

    assert in_child(child) == "healthy"


def test_a_run_that_is_called_off(checker: HealthChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the one who begins a run is interrupted, those who wait for it begin another one."""
    checker.register("it", lambda: True, timeout=PATIENCE)
    registered, found = checker._checks["it"], []
    waiting = threading.Thread(target=lambda: found.append(registered.wait(runs[0])))
    runs: list[Any] = []

    def interrupted_start(_thread: threading.Thread) -> None:
        monkeypatch.undo()
        runs.append(registered.look(30.0))  # somebody joins the run that has no thread yet
        waiting.start()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        checker.check("it")
    waiting.join(PATIENCE)
    assert [each.status for each in found] == [HealthStatus.HEALTHY]
    assert runs[0].result is None


def test_no_thread_to_be_had(checker: HealthChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no thread left is a finding, and the next run is tried all the same."""
    checker.register("it", lambda: True, timeout=PATIENCE)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        found = checker.check("it")
    assert (found.status.value, found.detail) == ("unhealthy", "RuntimeError: can't start new thread")
    checker._cache_seconds = 0
    assert checker.check("it").status is HealthStatus.HEALTHY


def test_a_thread_that_comes_too_late(checker: HealthChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that begins after its run was given up runs nothing: another run may be under way."""
    late: list[threading.Thread] = []
    runs: list[int] = []
    checker._cache_seconds = 0
    checker.register("it", lambda: runs.append(1), timeout=SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: late.append(thread))  # noqa: PLW0108 - a method needs a function
        assert checker.check("it").detail == "no result within 0.02 s"
    checker._checks["it"].timeout = PATIENCE
    assert checker.check("it").status is HealthStatus.HEALTHY
    late[0].start()
    late[0].join(PATIENCE)
    assert runs == [1]


def test_changes_are_logged(
    checker: HealthChecker, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What gets worse is a warning and what gets well is told, once each; secrets are left out."""
    answers: Iterator[object] = iter(
        [True, Finding(HealthStatus.UNHEALTHY, "token=s3cret expired"), False, "degraded", True]
    )
    checker.register("it", lambda: next(answers), timeout=PATIENCE)
    with caplog.at_level("INFO", "service_utils"):
        for _ in range(5):
            checker.check_all()
            fake_clock.advance(31.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Health check it healthy -> unhealthy (token=... expired)"),
        ("WARNING", "Health check it unhealthy -> degraded"),
        ("INFO", "Health check it degraded -> healthy"),
    ]


def test_a_listener_that_fails(fake_clock: FakeClock) -> None:
    """A listener's bug costs nobody a result."""

    def listener(_event: object) -> None:
        raise ValueError("bug")

    checker = HealthChecker(clock=fake_clock, listeners=[listener], timeout=PATIENCE)
    checker.register("it", lambda: True)
    assert checker.check("it").status is HealthStatus.HEALTHY


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["ask", "hang", "let go", 1.0, 29.0, 30.0]), max_size=12))
def test_whatever_happens(steps: list[object]) -> None:
    """One run at a time, none while a result is fresh, and one result each time when none is."""
    clock, story = FakeClock(), Story()
    checker = HealthChecker(clock=clock, timeout=PATIENCE, history_size=100)
    checker.register("it", story)
    registered = checker._checks["it"]
    asked_at: float | None = None
    for step in [*steps, "let go"]:
        if isinstance(step, float):
            clock.advance(step)
        elif step == "hang":
            story.hangs = True
        elif step == "let go":
            story.let_go()
            while registered._run is not None:
                story.over.wait(PATIENCE)
        else:
            registered.timeout = SHORT if story.hangs else PATIENCE
            fresh = asked_at is not None and clock.monotonic() - asked_at < 30.0
            runs, told = story.runs, len(checker.history("it"))
            found = checker.check("it")
            if fresh:
                assert (story.runs, len(checker.history("it"))) == (runs, told)
            else:
                asked_at = clock.monotonic()
                assert len(checker.history("it")) == told + 1
                assert (found.status is HealthStatus.HEALTHY) is not story.hangs
    assert story.most <= 1


class Story:
    """A check that hangs when it is told to, and knows how many of its runs are under way at once."""

    def __init__(self) -> None:
        self.runs = self.now = self.most = 0
        self.hangs = False
        self.go, self.over = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        self.now += 1
        self.most = max(self.most, self.now)
        go = self.go
        if self.hangs:
            go.wait(PATIENCE)
        self.now -= 1

    def let_go(self) -> None:
        self.hangs = False
        self.go.set()
        self.over.set()
        self.go = threading.Event()


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
        ("it", lambda: True, {"required_for_ready": "yes"}, TypeError, "required_for_ready='yes'"),
    ],
)
def test_bad_checks(
    checker: HealthChecker, name: str, check: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    """A check that could not work, such as a coroutine that nobody awaits, is refused when registered."""
    with pytest.raises(error, match=message):
        checker.register(name, check, **options)
