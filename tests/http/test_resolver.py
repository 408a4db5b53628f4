"""Names are looked up by a few threads, and nobody waits for one longer than it may."""

from __future__ import annotations

import contextlib
import gc
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from service_utils.clock import SYSTEM
from service_utils.http import resolver
from service_utils.http.resolver import resolve

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]


class NameServer:
    """Stands in for ``socket.getaddrinfo``: names that begin with "slow" wait until they are let go."""

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.arguments: tuple[Any, ...] = ()
        self.error: BaseException | None = None
        self.go = threading.Event()

    def __call__(self, *arguments: Any) -> list[Any]:
        self.arguments = arguments
        self.lookups.append(arguments[0])
        self.threads.add(threading.current_thread())
        if arguments[0].startswith("slow"):
            self.go.wait(30)
        if self.error is not None:
            raise self.error
        return list(ANSWER)


def until(condition: Callable[[], object]) -> None:
    deadline = SYSTEM.monotonic() + 10
    while not condition():
        assert SYSTEM.monotonic() < deadline, "it never came to be"
        SYSTEM.sleep(0.002)


def soon(seconds: float = 10.0) -> float:
    return SYSTEM.monotonic() + seconds


def gives_up(host: str, seconds: float = 0.05) -> float:
    """Looks up a name that will not come; the seconds that took."""
    began = SYSTEM.monotonic()
    with pytest.raises(TimeoutError, match="name resolution timed out"):
        resolve(host, 80, 0, began + seconds)
    return SYSTEM.monotonic() - began


def in_threads(count: int, work: Callable[[], object]) -> tuple[list[threading.Thread], list[Any]]:
    """Starts threads that do the work, and gives them and a list that fills with what comes of it."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pool = resolver._Pool()
    monkeypatch.setattr(resolver, "_pool", pool)
    monkeypatch.setattr(resolver, "_IDLE_SECONDS", 0.05)
    yield pool
    until(lambda: not pool._threads)


@pytest.fixture
def names(pool: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    names = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.go.set()


# -- what comes out ----------------------------------------------------------------------------------------


def test_a_name() -> None:
    """A name gives just what socket.getaddrinfo gives."""
    stock = socket.getaddrinfo("localhost", 80, socket.AF_UNSPEC, socket.SOCK_STREAM)

    assert resolve("localhost", 80, socket.AF_UNSPEC, soon()) == stock


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%1"])
def test_a_numeric_address(address: str, pool: Any) -> None:
    """A numeric address is there at once, without a thread, even where no time is left."""
    try:
        stock = socket.getaddrinfo(address, 80, socket.AF_UNSPEC, socket.SOCK_STREAM)
    except socket.gaierror:
        pytest.skip("this machine has no such network")

    assert resolve(address, 80, socket.AF_UNSPEC, soon(-1)) == stock
    assert not pool._threads


def test_no_moment(names: NameServer) -> None:
    """Who may wait for ever looks the name up in its own thread."""
    assert resolve("service", 80, 0, None) == ANSWER
    assert names.threads == {threading.current_thread()}


def test_stand_ins(names: NameServer) -> None:
    """Whatever stands in for socket.getaddrinfo at the moment is asked, as urllib3 would ask it."""
    assert resolve("service", 8080, socket.AF_INET, soon()) == ANSWER
    assert names.arguments == ("service", 8080, socket.AF_INET, socket.SOCK_STREAM)


def test_a_stand_in_may_be_slow_with_addresses(names: NameServer) -> None:
    """Somebody's own getaddrinfo is waited for no longer than allowed, whatever it is asked."""
    resolve("127.0.0.1", 80, 0, soon())

    assert names.threads != {threading.current_thread()}


def test_a_name_that_does_not_exist(names: NameServer) -> None:
    """The error is the resolver's own."""
    names.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror, match="Name or service not known") as caught:
        resolve("nowhere", 80, 0, soon())

    assert caught.value.errno == socket.EAI_NONAME


# -- time --------------------------------------------------------------------------------------------------


def test_a_lookup_that_hangs(names: NameServer) -> None:
    """The caller is back at its moment, whatever the lookup does."""
    assert 0.05 <= gives_up("slow") < 1.0


def test_the_moment_has_passed(names: NameServer) -> None:
    """Without any time left there is none to wait."""
    assert gives_up("slow", -1.0) < 1.0


def test_infinite_patience(names: NameServer) -> None:
    """A moment that never comes is one to wait for."""
    names.go.set()

    assert resolve("slow", 80, 0, float("inf")) == ANSWER


def test_all_threads_hang(names: NameServer) -> None:
    """Behind lookups that hang a new one still ends in time, and goes well once they are over."""
    for number in range(4):
        gives_up(f"slow {number}")

    assert gives_up("service") < 1.0
    threads, results = in_threads(1, lambda: resolve("service", 80, 0, soon()))
    names.go.set()
    join(threads)
    assert results == [ANSWER]


def test_few_threads(names: NameServer, pool: Any) -> None:
    """However many names hang, four threads are the most."""
    threads, _ = in_threads(20, lambda: gives_up(f"slow {threading.get_ident()}", 0.3))
    until(lambda: len(names.lookups) == 4)
    join(threads)

    assert len(names.threads) == len(names.lookups) == 4


def test_what_nobody_waits_for_is_not_begun(names: NameServer, pool: Any) -> None:
    """A lookup that was given up before its turn never takes place, and nothing of it stays behind."""
    for number in range(8):
        gives_up(f"slow {number}")
    assert not pool._queued
    names.go.set()
    until(lambda: not pool._threads)

    assert names.lookups == ["slow 0", "slow 1", "slow 2", "slow 3"]


def test_threads_end(names: NameServer, pool: Any) -> None:
    """A thread with nothing to do ends, and the next lookup gets another."""
    resolve("service", 80, 0, soon())
    until(lambda: not pool._threads)

    assert resolve("service", 80, 0, soon()) == ANSWER


def test_a_thread_is_used_again(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups one after the other need one thread."""
    monkeypatch.setattr(resolver, "_IDLE_SECONDS", 1.0)
    for number in range(5):
        resolve(f"service {number}", 80, 0, soon())

    assert len(names.threads) == 1


# -- many callers ------------------------------------------------------------------------------------------


def test_one_lookup_for_all(names: NameServer, pool: Any) -> None:
    """Callers that ask for the same name at the same time share one lookup, and each gets its own list."""
    threads, results = in_threads(20, lambda: resolve("slow", 80, 0, soon()))
    until(lambda: pool._under_way and len(next(iter(pool._under_way.values())).waiting) == 20)
    names.go.set()
    join(threads)

    assert results == [ANSWER] * 20
    assert len({id(each) for each in results}) == 20
    assert names.lookups == ["slow"]


def test_one_name_leaves_room_for_others(
    names: NameServer, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that hangs takes two threads at the most, however often it is asked for."""
    monkeypatch.setattr(resolver, "_LATE_SECONDS", 0.0)
    for _ in range(6):
        gives_up("slow", 0.02)

    assert names.lookups == ["slow", "slow"]
    assert resolve("service", 80, 0, soon()) == ANSWER


def test_a_lost_datagram(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that takes too long is begun a second time, and who waits gets whichever is first."""
    first, results = in_threads(1, lambda: resolve("slow", 80, 0, soon()))
    until(lambda: names.lookups == ["slow"])
    hanging, names.go = names.go, threading.Event()
    names.go.set()
    monkeypatch.setattr(resolver, "_LATE_SECONDS", 0.0)

    assert resolve("slow", 80, 0, soon()) == ANSWER
    join(first)
    assert results == [ANSWER]
    hanging.set()


def test_each_has_its_own_error(names: NameServer, pool: Any) -> None:
    """One failure is raised in every thread as an object of its own."""
    names.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    threads, results = in_threads(5, lambda: resolve("slow", 80, 0, soon()))
    until(lambda: pool._under_way and len(next(iter(pool._under_way.values())).waiting) == 5)
    names.go.set()
    join(threads)

    assert [type(each) for each in results] == [socket.gaierror] * 5
    assert {each.args for each in results} == {names.error.args}
    assert len({id(each) for each in results} | {id(names.error)}) == 6


class Stubborn(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def test_an_error_that_cannot_be_copied(names: NameServer) -> None:
    """An exception that cannot be made anew is told in the resolver's own words."""
    names.error = Stubborn("no such luck", "")

    with pytest.raises(socket.gaierror, match="Stubborn: no such luck"):
        resolve("service", 80, 0, soon())


def test_a_thread_that_is_to_end(names: NameServer) -> None:
    """What ends a thread is no error of those who wait for it."""
    names.error = SystemExit(1)

    with pytest.raises(socket.gaierror, match="interrupted"):
        resolve("service", 80, 0, soon())


def test_failures_leave_no_garbage(names: NameServer) -> None:
    """A failed lookup is forgotten without the garbage collector."""
    names.error = error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(socket.gaierror):
            resolve("nowhere", 80, 0, soon())
        assert not [each for each in gc.get_objects() if isinstance(each, resolver._Lookup)]
    finally:
        gc.enable()
    assert error.__traceback__ is None


# -- interruptions -----------------------------------------------------------------------------------------


def interrupted_at(
    line: int, inside: CodeType, work: Callable[[], object], interruption: Callable[[], object]
) -> bool:
    """Do the work in a thread, interrupted before the so manieth new line of that function; was there one?"""
    seen: set[int] = set()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code is not inside:
            return None
        if event == "line" and len(seen) < line and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            if len(seen) == line:
                interruption()
        return trace

    def traced() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)

    thread = threading.Thread(target=traced, daemon=True)
    thread.start()
    join([thread])
    return len(seen) == line


def at_each_line(inside: CodeType, work: Callable[[], object], interruption: Callable[[], object]) -> int:
    """Do the work again and again, interrupted wherever signal handlers run; returns how often it was."""
    line = 1
    while interrupted_at(line, inside, work, interruption):
        line += 1
    return line - 1


FUNCTIONS = [resolver._Pool.resolve, resolver._Pool._join, resolver._Pool._leave]


@pytest.mark.parametrize("inside", FUNCTIONS)
def test_a_signal_handler_resolves_too(inside: Any, names: NameServer) -> None:
    """A signal handler, or a finalizer, may look up a name wherever it interrupts a lookup, even the same."""
    seen: list[object] = []

    def work() -> None:
        seen.append(resolve("service", 80, 0, soon()))

    lines = at_each_line(inside.__code__, work, work)

    assert seen == [ANSWER] * (2 * lines + 1)
    assert lines > 3


@pytest.mark.parametrize("inside", FUNCTIONS)
def test_an_interrupted_caller(inside: Any, names: NameServer, pool: Any) -> None:
    """Wherever a caller is interrupted, the next one gets its answer and nothing is left of the first."""

    def interruption() -> None:
        raise KeyboardInterrupt

    def work() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            resolve("service", 80, 0, soon())
        assert resolve("service", 80, 0, soon()) == ANSWER

    assert at_each_line(inside.__code__, work, interruption) > 3
    assert not pool._queued
    assert not pool._under_way


def test_no_thread_to_be_had(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as at the interpreter's end, the caller looks the name up itself."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    assert resolve("service", 80, 0, soon()) == ANSWER
    assert names.threads == {threading.current_thread()}


# -- processes ---------------------------------------------------------------------------------------------


def output_of(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_end_of_the_interpreter() -> None:
    """A lookup that hangs does not keep the process from ending."""
    script = """
        import socket, threading
        from service_utils.clock import SYSTEM
        from service_utils.http.resolver import resolve
        socket.getaddrinfo = lambda *_: threading.Event().wait()
        try:
            resolve("slow", 80, 0, SYSTEM.monotonic() + 0.1)
        except TimeoutError:
            print("given up")
        """

    assert output_of(script) == "given up\n"


def test_forks() -> None:
    """A child looks names up although all threads of its parent hang, and shares none of their lookups."""
    script = """
        import os, socket, threading
        from service_utils.clock import SYSTEM
        from service_utils.http.resolver import resolve
        stock = socket.getaddrinfo
        socket.getaddrinfo = lambda *_: threading.Event().wait()
        for name in ("localhost", "b", "c", "d"):
            try:
                resolve(name, 80, 0, SYSTEM.monotonic() + 0.01)
            except TimeoutError:
                pass
        if os.fork() == 0:
            socket.getaddrinfo = stock
            print(len(resolve("localhost", 80, socket.AF_INET, SYSTEM.monotonic() + 10)), flush=True)
            os._exit(0)
        os.wait()
        """

    assert output_of(script) == "1\n"


def test_gevent() -> None:
    """Under gevent's monkey patching greenlets wait for names side by side, each no longer than it may."""
    pytest.importorskip("gevent")
    script = """
        from gevent import monkey
        monkey.patch_all()
        import gevent, socket
        from service_utils.clock import SYSTEM
        from service_utils.http.resolver import resolve
        def slow(host, *_):
            gevent.sleep(5 if host == "slow" else 0.2)
            return [host]
        socket.getaddrinfo = slow
        def ask(name):
            try:
                return resolve(name, 80, 0, SYSTEM.monotonic() + 1)[0]
            except TimeoutError:
                return "given up"
        began = SYSTEM.monotonic()
        jobs = [gevent.spawn(ask, name) for name in ("slow", "a", "b", "a", "c")]
        gevent.joinall(jobs)
        print([job.value for job in jobs], SYSTEM.monotonic() - began < 3)
        """

    assert output_of(script) == "['given up', 'a', 'b', 'a', 'c'] True\n"
