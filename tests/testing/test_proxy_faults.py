"""Each fault of a proxy as its caller and its service see it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import requests

from service_utils.testing import (
    Answer,
    Drip,
    End,
    Ending,
    Fault,
    FaultProxy,
    FaultServer,
    Flow,
    Side,
    faults,
)

pytest_plugins = ["service_utils.testing.fixtures"]

_REQUEST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"


class _Caller:
    """Sends one request and tells all that came back."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.got = b""
        self.reset = False
        self._address = ("127.0.0.1", proxy.port)

    def ask(self) -> _Caller:
        try:
            with socket.create_connection(self._address, timeout=10) as sock:
                sock.sendall(_REQUEST)
                while data := sock.recv(2**16):
                    self.got += data
        except ConnectionError:
            self.reset = True
        return self


@pytest.fixture
def fault_server(fault_server: FaultServer) -> FaultServer:
    """It closes after each answer, so that its end is seen without knowing its length."""
    fault_server.default = Answer(200, "0123456789").then_close()
    return fault_server


def test_refuse(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """The caller is reset, and the service hears nothing, not even of a connection."""
    fault_proxy.script([faults.refuse()])
    caller = _Caller(fault_proxy).ask()
    assert (caller.got, caller.reset) == (b"", True)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.method, noted.request_bytes) == (End.FAULT, None, 0)
    assert fault_server.connections == 0


def test_refuse_on_a_kept_connection(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """Chosen for a later request, it resets the connection before that request goes anywhere."""
    fault_server.default = Answer(200)
    fault_proxy.script([faults.nothing(), faults.refuse()])
    with requests.Session() as session:
        assert session.get(fault_proxy.url, timeout=10).ok
        with pytest.raises(requests.ConnectionError):
            session.get(fault_proxy.url, timeout=10)
    assert len(fault_server.requests) == 1


@pytest.mark.parametrize("n", [0, 1, 10, len(_REQUEST) - 1])
@pytest.mark.parametrize(("fault", "reset"), [(faults.reset_at, True), (faults.truncate_at, False)])
def test_cut_request(
    fault_server: FaultServer, fault_proxy: FaultProxy, fault: Callable[..., Fault], reset: bool, n: int
) -> None:
    """So many bytes reach the service, which never has a request; the caller gets no answer."""
    fault_proxy.script([fault(n, side=Side.REQUEST)])
    caller = _Caller(fault_proxy).ask()
    assert (caller.got, caller.reset) == (b"", reset)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.request_bytes, noted.request_whole) == (End.FAULT, n, False)
    assert fault_server.requests == []


@pytest.mark.parametrize("n", [0, 1, 40])
@pytest.mark.parametrize(("fault", "reset"), [(faults.reset_at, True), (faults.truncate_at, False)])
def test_cut_answer(
    fault_server: FaultServer, fault_proxy: FaultProxy, fault: Callable[..., Fault], reset: bool, n: int
) -> None:
    """The service has done its work; so many bytes of its answer arrive, then a reset or end of file."""
    fault_proxy.script([fault(n)])
    caller = _Caller(fault_proxy).ask()
    assert (len(caller.got), caller.reset) == (n, reset)
    assert b"HTTP/1.1 200 OK\r\n"[:n] == caller.got[:17]
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.status, noted.request_whole, noted.response_bytes) == (End.FAULT, 200, True, n)
    assert len(fault_server.requests) == 1


@pytest.mark.parametrize("side", list(Side))
def test_cut_beyond_the_end_does_nothing(fault_proxy: FaultProxy, side: Side) -> None:
    """A message shorter than that passes whole."""
    fault_proxy.script([faults.reset_at(10_000, side=side)])
    caller = _Caller(fault_proxy).ask()
    assert caller.got.endswith(b"0123456789")
    assert not caller.reset
    assert fault_proxy.wait_for(1)[0].end is End.PASSED


@pytest.mark.parametrize(("ending", "reset"), [(Ending.RESET, True), (Ending.CLOSE, False)])
def test_drop_reply(fault_server: FaultServer, fault_proxy: FaultProxy, ending: Ending, reset: bool) -> None:
    """The service has answered whole, and the caller sees not a byte of it."""
    fault_server.default = Answer(201, b"x" * 200_000)
    fault_proxy.script([faults.drop_reply(ending)])
    caller = _Caller(fault_proxy).ask()
    assert (caller.got, caller.reset) == (b"", reset)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.status, noted.request_whole, noted.response_bytes) == (End.FAULT, 201, True, 0)
    assert fault_server.requests[0].body == b"12345"


def test_drop_reply_that_ends_with_its_connection(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """An answer without a length is dropped when the service has closed."""
    fault_server.default = Answer(200, "abc", {"Transfer-Encoding": "identity"}, ending=Ending.CLOSE)
    fault_proxy.script([faults.drop_reply()])
    caller = _Caller(fault_proxy).ask()
    assert (caller.got, caller.reset) == (b"", True)
    assert fault_proxy.wait_for(1)[0].end is End.FAULT


def test_drop_reply_waits_for_the_whole_answer(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """While the service is still answering, the caller's connection stays as it is."""
    fault_server.default = Answer(200, "12345678").stalled_at(4)
    fault_proxy.script([faults.drop_reply()])
    with pytest.raises(requests.ReadTimeout):
        requests.get(fault_proxy.url, timeout=0.1)
    assert fault_proxy.wait_for(1)[0].end is End.CALLER_LEFT


@pytest.mark.parametrize(("side", "asked"), [(Side.REQUEST, 0), (Side.RESPONSE, 1)])
def test_blackhole(fault_server: FaultServer, fault_proxy: FaultProxy, side: Side, asked: int) -> None:
    """Silence until the caller gives up; the service was asked or was not."""
    fault_proxy.script([faults.blackhole(side)])
    with pytest.raises(requests.ReadTimeout):
        requests.get(fault_proxy.url, timeout=0.05)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.response_bytes) == (End.FAULT, 0)
    assert len(fault_server.requests) == asked


def test_blackhole_outlives_the_service(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """That the service closes does not end the silence."""
    fault_proxy.script([faults.blackhole(Side.RESPONSE, after=3)])
    with socket.create_connection(("127.0.0.1", fault_proxy.port), timeout=10) as sock:
        sock.sendall(_REQUEST)
        fault_proxy.wait_for(1)
        fault_server.close()
        assert sock.recv(3) == b"HTT"
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a proxy makes, which take no time."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr("service_utils.testing.proxying._pause", pause)
    return made


def _slowed(proxy: FaultProxy, fault: Fault, pauses: list[float]) -> list[float]:
    """The pauses, other than none, of an exchange that passes."""
    proxy.script([fault])
    assert _Caller(proxy).ask().got.endswith(b"0123456789")
    assert proxy.wait_for(1)[0].end is End.PASSED
    return [each for each in pauses if each > 0]


@pytest.mark.parametrize("side", list(Side))
def test_latency(fault_proxy: FaultProxy, pauses: list[float], side: Side) -> None:
    """One pause, on the way there or back."""
    assert _slowed(fault_proxy, faults.latency(0.25, side=side), pauses) == [0.25]


def test_latency_with_jitter(fault_proxy: FaultProxy, pauses: list[float]) -> None:
    """The jitter comes on top, from the random numbers of the exchange."""
    expected = 0.25 + Random("0:1").uniform(0, 0.5)
    assert _slowed(fault_proxy, faults.latency(0.25, jitter=0.5), pauses) == [expected]


def test_jitter(fault_proxy: FaultProxy, pauses: list[float]) -> None:
    """Jitter alone is a pause of 0 to so many seconds."""
    assert _slowed(fault_proxy, faults.jitter(2.0), pauses) == [Random("0:1").uniform(0, 2.0)]


@pytest.mark.parametrize("side", list(Side))
def test_bandwidth(fault_proxy: FaultProxy, pauses: list[float], side: Side) -> None:
    """The pauses add up to what so many bytes take."""
    waited = sum(_slowed(fault_proxy, faults.bandwidth(1000, side=side), pauses))
    noted = fault_proxy.log[0]
    size = noted.request_bytes if side is Side.REQUEST else noted.response_bytes
    assert size / 1000 <= waited <= size / 1000 + 0.02


def test_drip(fault_proxy: FaultProxy, pauses: list[float]) -> None:
    """A pause after each piece; head and body may come one by one."""
    made = _slowed(fault_proxy, faults.drip(7, 0.5), pauses)
    assert set(made) == {0.5}
    assert len(made) - fault_proxy.log[0].response_bytes // 7 in (0, 1, 2)


def test_latency_takes_its_time(fault_proxy: FaultProxy) -> None:
    """The pause is a real one: a caller who has less patience gives up."""
    fault_proxy.script([faults.latency(5)])
    with pytest.raises(requests.ReadTimeout):
        requests.get(fault_proxy.url, timeout=0.05)


def test_faults_put_together(fault_server: FaultServer, fault_proxy: FaultProxy, pauses: list[float]) -> None:
    """Flows of one's own combine what single faults do."""
    both = Fault(
        "slow, then cut",
        request=Flow(delay=0.5),
        response=Flow(drip=Drip(2, 0.125), cut_at=5, ending=Ending.CLOSE),
    )
    fault_proxy.script([both])
    caller = _Caller(fault_proxy).ask()
    assert (caller.got, caller.reset) == (b"HTTP/", False)
    assert [each for each in pauses if each > 0] == [0.5, 0.125, 0.125, 0.125]
    assert fault_proxy.wait_for(1)[0].fault.name == "slow, then cut"


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": float("nan")},
        {"jitter": float("inf")},
        {"bytes_per_second": 0},
        {"cut_at": -1},
        {"ending": Ending.KEEP_OPEN},
    ],
)
def test_flow_checks_its_numbers(wrong: dict[str, Any]) -> None:
    """A number out of range is refused at once, and the message names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Flow(**wrong)


def _kinds(proxy: FaultProxy) -> list[str]:
    return [each.fault.name for each in sorted(proxy.log, key=lambda each: each.number)]


def test_random_is_the_same_for_the_same_seed(fault_server: FaultServer) -> None:
    """The seed and the number of an exchange decide what is done to it, as documented."""
    chosen = [faults.latency(0.001), lambda random: faults.truncate_at(random.randrange(60))]
    seen = []
    for seed in ("a", "a", "b"):
        with FaultProxy(("127.0.0.1", fault_server.port)) as proxy:
            proxy.random(seed=seed, rate=0.5, faults=chosen)
            for _ in range(20):
                _Caller(proxy).ask()
            seen.append([each.fault for each in proxy.wait_for(20)])
    assert seen[0] == seen[1] != seen[2]
    assert seen[0] == [_by_hand(number) for number in range(1, 21)]


def _by_hand(number: int) -> Fault:
    random = Random(f"a:{number}")
    if random.random() >= 0.5:
        return faults.nothing()
    return random.choice([lambda: faults.latency(0.001), lambda: faults.truncate_at(random.randrange(60))])()


def test_script_goes_before_chance(fault_proxy: FaultProxy) -> None:
    """What is scripted is done first; clear() ends both."""
    fault_proxy.random(seed=1, rate=1, faults=[faults.truncate_at(3)])
    fault_proxy.script([faults.nothing()])
    for _ in range(2):
        _Caller(fault_proxy).ask()
    fault_proxy.wait_for(2)
    assert _kinds(fault_proxy) == ["nothing", "truncate"]
    fault_proxy.clear()
    _Caller(fault_proxy).ask()
    fault_proxy.wait_for(1)
    assert _kinds(fault_proxy) == ["nothing"]


def test_some_of_each_has_every_kind() -> None:
    """The assortment for random faults holds every kind, on both ways where there are two."""
    drawn = {(each.name, each.request != Flow()) for seed in range(20) for each in _assortment(seed)}
    assert {name for name, _ in drawn} == {
        "latency", "jitter", "bandwidth", "drip", "refuse", "reset", "truncate", "blackhole", "drop_reply"
    }  # fmt: skip
    for name in ("latency", "reset", "truncate", "blackhole"):
        assert {(name, True), (name, False)} <= drawn


def _assortment(seed: int) -> list[Fault]:
    random = Random(seed)
    return [plan if isinstance(plan, Fault) else plan(random) for plan in faults.some_of_each()]


def test_random_checks_its_arguments(fault_proxy: FaultProxy) -> None:
    """A rate that is no share and an empty choice are refused."""
    with pytest.raises(ValueError, match="rate="):
        fault_proxy.random(seed=1, rate=1.1)
    with pytest.raises(ValueError, match="faults="):
        fault_proxy.random(seed=1, faults=[])
