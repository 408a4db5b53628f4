"""Protected routes: who is let in, who is turned away, and that nothing is kept of either."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify
from werkzeug.test import TestResponse, create_environ

from service_utils import BreakerConfig, ServiceRegistry, ServiceUnavailable
from service_utils.events import LoadShed
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.flask.protection import Limits, Priority, Protection, protect
from service_utils.policies.bulkhead import Slot
from service_utils.testing import FakeClock

ONE = Limits(max_concurrent=1, breaker=None)


class Scene:
    """An app with one view at several paths, protected; the view does what the test says."""

    def __init__(self, limits: dict[str, Limits], **options: Any) -> None:
        self.clock = FakeClock()
        self.told: list[Any] = []
        self.view: Callable[[], Any] = lambda: "done"
        self.app = Flask("scene")
        ServiceUtils(self.app, ServiceRegistry(), clock=self.clock)
        for path in ("/chat", "/chat/<path:rest>", "/chats", "/other", "/health/live", "/"):
            self.app.add_url_rule(path, path, self._answer, methods=["GET", "POST"])
        options = {"clock": self.clock, "listeners": [self.told.append], **options}
        self.protection: Protection = protect(self.app, limits, **options)
        self.client = self.app.test_client()

    def _answer(self, **_arguments: str) -> Any:
        return self.view()

    def get(self, path: str = "/chat", **headers: str) -> TestResponse:
        """Ask for a path."""
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.client.get(path, headers=sent, buffered=True)  # closed, as a server does it

    def inside(self, path: str, within: Callable[[], Any], **headers: str) -> TestResponse:
        """Ask for a path, and do something while the request is under way."""
        view, done = self.view, []

        def busy() -> str:
            self.view = view
            done.append(within())
            return "done"

        self.view = busy
        response = self.get(path, **headers)
        assert done, f"{path} was not let in: {response.status}"
        return response

    def in_flight(self, path: str = "/chat") -> int:
        """How many are in there."""
        return int(self.protection.get_status()["routes"][path]["in_flight"])

    def shed(self) -> list[tuple[str, str]]:
        """Route and reason of all that was turned away."""
        return [(each.route, each.reason) for each in self.told if isinstance(each, LoadShed)]


def test_a_full_route_turns_the_next_request_away() -> None:
    """While all places of a route are taken, others get 503 problem JSON that says when to come back."""
    scene = Scene({"/chat": Limits(max_concurrent=1, retry_after=2.5)})
    refused: list[TestResponse] = []
    assert scene.inside("/chat", lambda: refused.append(scene.get())).status_code == 200

    assert refused[0].status_code == 503
    assert refused[0].mimetype == "application/problem+json"
    assert refused[0].headers["Retry-After"] == "3"
    assert refused[0].headers["X-Request-ID"] == refused[0].json["request_id"]
    assert scene.shed() == [("/chat", "full")]
    assert scene.get().status_code == 200


def test_the_view_and_the_hooks_before_it_do_no_work_for_a_refused_request() -> None:
    """Whoever is turned away costs nothing but the refusal."""
    app, ran = Flask("hooks"), []
    app.before_request(lambda: ran.append("hook"))
    app.add_url_rule("/chat", "chat", lambda: ran.append("view") or "done")
    ServiceUtils(app, ServiceRegistry())
    protection = protect(app, {"/chat": Limits(failure_threshold=1)})
    protection.breakers["/chat"].force_open("test")
    refused = app.test_client().get("/chat", headers={"X-Request-ID": "mine"}, buffered=True)
    assert (refused.status_code, refused.json["request_id"], ran) == (503, "mine", [])


def test_the_extension_may_come_after_the_protection() -> None:
    """In whichever order the two are put in, the refusal carries the request's id."""
    app = Flask("order")
    app.add_url_rule("/chat", "chat", lambda: "done")
    protection = protect(app, {"/chat": Limits(failure_threshold=1)})
    ServiceUtils(app, ServiceRegistry())
    protection.breakers["/chat"].force_open("test")
    refused = app.test_client().get("/chat", headers={"X-Request-ID": "mine"})
    assert (refused.status_code, refused.headers["X-Request-ID"]) == (503, "mine")


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/chat", "/chat"),
        ("/chat/", "/chat"),
        ("/chat/7", "/chat"),
        ("/chat/deep", "/chat/deep"),
        ("/chat/deep/er", "/chat/deep"),
        ("/chat/deeper", "/chat"),
        ("/chats", "/"),
        ("/", "/"),
        ("/health/live", None),
        ("/healthy", "/"),
        ("/v1/api/status/services", None),
        ("/mine/page", None),
    ],
)
def test_the_longest_prefix_wins(path: str, route: str | None) -> None:
    """A path is protected by the longest prefix of whole segments; health and status pages by none."""
    scene = Scene({"/": ONE, "/chat/": ONE, "/chat/deep": ONE}, exempt=["/mine"])
    gate = scene.protection._gate_of(path)
    assert (gate and gate.prefix) == route


def test_health_pages_are_protected_when_they_are_named() -> None:
    """Whoever names a health page means it."""
    scene = Scene({"/": ONE, "/health/live": ONE})
    gate = scene.protection._gate_of("/health/live")
    assert gate is not None
    assert gate.prefix == "/health/live"
    assert scene.protection._gate_of("/health/ready") is None


def test_preflights_are_not_turned_away() -> None:
    """A browser that may not ask cannot be told that it has to wait."""
    scene = Scene({"/chat": ONE})
    answers: list[TestResponse] = []
    scene.inside("/chat", lambda: answers.append(scene.client.options("/chat", buffered=True)))
    assert [each.status_code for each in answers] == [200]


def stream(*pieces: str, error: BaseException | None = None) -> Callable[[], Response]:
    """A view whose body is made piece by piece, and which may break at the end."""

    def body() -> Iterator[str]:
        yield from pieces
        if error is not None:
            raise error

    return lambda: Response(body())


def raising(error: BaseException) -> Callable[[], Any]:
    """A view that raises."""

    def view() -> Any:
        raise error

    return view


def test_a_streamed_answer_keeps_its_place_until_it_is_closed() -> None:
    """A body that is still being sent is work under way; the end of it alone is not yet the end."""
    scene = Scene({"/chat": ONE})
    scene.view = stream("a", "b")
    environ = create_environ("/chat")
    body = scene.app(environ, lambda *_: lambda _: None)
    assert b"".join(body) == b"ab"
    assert scene.in_flight() == 1
    assert scene.get().status_code == 503
    body.close()
    body.close()
    assert scene.in_flight() == 0


def test_a_caller_who_hangs_up_gives_the_place_back() -> None:
    """A server that closes a body before its end has said goodbye for the caller."""
    scene = Scene({"/chat": ONE})
    scene.view = stream("a", "b")
    body = scene.app(create_environ("/chat"), lambda *_: lambda _: None)
    next(iter(body))
    body.close()
    assert scene.in_flight() == 0


def test_a_server_that_forgets_to_close_loses_no_place() -> None:
    """What is dropped without being closed gives its place back when it is collected."""
    scene = Scene({"/chat": ONE})
    scene.view = stream("a", "b")
    body = scene.app(create_environ("/chat"), lambda *_: lambda _: None)
    next(iter(body))
    del body
    gc.collect()
    assert scene.in_flight() == 0


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_no_way_out_of_a_view_keeps_a_place(error: BaseException) -> None:
    """Errors, Ctrl-C and exits give the place back, and an interrupt says nothing about the route."""
    scene = Scene({"/chat": Limits(max_concurrent=1, failure_threshold=1)}, max_concurrent=1)
    scene.app.config["PROPAGATE_EXCEPTIONS"] = True
    scene.view = raising(error)
    with pytest.raises(type(error)):
        scene.get()
    status = scene.protection.get_status()
    assert scene.in_flight() == 0
    assert status["app"]["priorities"]["normal"]["in_flight"] == 0
    assert status["routes"]["/chat"]["circuit"]["state"] == (
        "open" if isinstance(error, Exception) else "closed"
    )


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_a_body_that_breaks_keeps_no_place(error: BaseException) -> None:
    """A stream that raises in the middle is closed by the server, and then its place is free."""
    scene = Scene({"/chat": Limits(max_concurrent=1, failure_threshold=1)})
    scene.view = stream("a", error=error)
    body = scene.app(create_environ("/chat"), lambda *_: lambda _: None)
    with pytest.raises(type(error)):
        list(body)
    body.close()
    assert scene.in_flight() == 0
    assert scene.protection.breakers["/chat"].state.value == (
        "open" if isinstance(error, Exception) else "closed"
    )


def test_an_answer_that_cannot_be_closed_keeps_no_place_and_counts() -> None:
    """What is to be done at the end of an answer belongs to the route: its failure is the route's."""
    scene = Scene({"/chat": Limits(max_concurrent=1, failure_threshold=1)})

    def view() -> Response:
        answer = Response("done")
        answer.call_on_close(raising(ValueError("bug")))
        return answer

    scene.view = view
    with pytest.raises(ValueError, match="bug"):
        scene.get()
    assert scene.in_flight() == 0
    assert scene.protection.breakers["/chat"].state.value == "open"


def test_hooks_that_raise_keep_no_place() -> None:
    """An error before the view or after it is an error of the route and takes no place with it."""
    scene = Scene({"/chat": ONE})

    @scene.app.teardown_request
    def broken(_error: BaseException | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.get()
    assert scene.in_flight() == 0


def test_a_signal_while_places_are_given_back_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in the very moment in which a place is given back comes out, and the place is free."""
    scene = Scene({"/chat": ONE}, max_concurrent=1)
    queue = scene.protection._gates[0].queue
    assert queue is not None
    give_back, rung = queue.places._give_back, []

    def interrupted(slot: Any) -> None:
        if not rung:
            rung.append(True)
            raise KeyboardInterrupt
        give_back(slot)

    monkeypatch.setattr(queue.places, "_give_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scene.get()
    assert scene.in_flight() == 0
    assert scene.protection.get_status()["app"]["priorities"]["normal"]["in_flight"] == 0


def test_a_signal_before_a_place_is_given_back_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same when it comes a moment earlier: by the time it comes out the place is free."""
    scene = Scene({"/chat": ONE})
    release, rung = Slot.release, []

    def interrupted(slot: Slot) -> None:
        if not rung:
            rung.append(True)
            raise KeyboardInterrupt
        release(slot)

    monkeypatch.setattr(Slot, "release", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        scene.get()
    assert scene.in_flight() == 0
    assert raised.traceback


def test_an_answer_without_body_gives_its_place_back() -> None:
    """HEAD and 204 have no body to send, but an end."""
    scene = Scene({"/chat": ONE})
    assert scene.client.head("/chat", buffered=True).status_code == 200
    scene.view = lambda: ("", 204)
    assert scene.get().status_code == 204
    assert scene.in_flight() == 0


def test_an_unknown_path_below_a_protected_one_gives_its_place_back() -> None:
    """A 404 takes a place no longer than it lasts."""
    scene = Scene({"/other": ONE})
    assert scene.get("/other/unknown").status_code == 404
    assert scene.in_flight("/other") == 0


def test_a_route_that_keeps_failing_is_closed_for_a_while() -> None:
    """After so many failures in a row nobody is let in for a while; then one request shows that it works."""
    scene = Scene({"/chat": Limits(failure_threshold=2)})
    scene.view = raising(ValueError("bug"))
    assert [scene.get().status_code for _ in range(3)] == [500, 500, 503]
    scene.view = lambda: "done"
    refused = scene.get()
    assert refused.headers["Retry-After"] == "10"
    assert scene.get("/other").status_code == 200
    scene.clock.advance(10)
    assert [scene.get().status_code for _ in range(2)] == [200, 200]
    assert scene.shed() == [("/chat", "circuit open")] * 2


@pytest.mark.parametrize(
    ("view", "counted"),
    [
        (lambda: ("", 500), "failed"),
        (lambda: ("", 503), "failed"),
        (lambda: ("", 503, {"retry-after": "5"}), "ignored"),
        (lambda: ("", 502), "ignored"),
        (lambda: ("", 504), "ignored"),
        (lambda: abort(404), "ignored"),
        (lambda: abort(409), "succeeded"),
        (raising(ServiceUnavailable("away", service="Billing")), "ignored"),
    ],
)
def test_what_counts_as_a_failure_of_the_route(view: Callable[[], Any], counted: str) -> None:
    """Its own errors count; those it blames on a service behind it, or that say when to come back, do not."""
    scene = Scene({"/chat": Limits(failure_threshold=5)})
    scene.view = view
    scene.get()
    total = scene.protection.breakers["/chat"].get_stats()["total"]
    assert {name: number for name, number in total.items() if number} == {counted: 1}


def test_which_statuses_are_failures_can_be_said() -> None:
    """An app whose own 504s are its own fault says so."""
    scene = Scene({"/chat": Limits(failure_threshold=1, failure_statuses=[504])})
    scene.view = lambda: ("", 500)
    assert [scene.get().status_code for _ in range(2)] == [500, 500]
    scene.view = lambda: ("", 504)
    assert [scene.get().status_code for _ in range(2)] == [504, 503]


def test_a_single_poisonous_request_cuts_nobody_off() -> None:
    """With the limits nobody has touched, one user's failures are too few among everybody's."""
    scene = Scene({"/chat": Limits()})
    for _ in range(15):
        scene.view = raising(ValueError("bug"))
        assert scene.get().status_code == 500
        scene.view = lambda: "done"
        assert [scene.get().status_code for _ in range(2)] == [200, 200]


def test_a_slow_reader_does_not_keep_a_probe() -> None:
    """A probe has shown with the first piece of its body that the route works again."""
    scene = Scene({"/chat": Limits(failure_threshold=1)})
    scene.view = raising(ValueError("bug"))
    scene.get()
    scene.clock.advance(10)
    scene.view = stream("a", "b")
    body = scene.app(create_environ("/chat"), lambda *_: lambda _: None)
    next(iter(body))
    assert scene.protection.breakers["/chat"].state.value == "closed"
    body.close()


def test_a_probe_under_way_turns_others_away_with_a_time() -> None:
    """While a probe is under way the others are told to come back soon."""
    scene = Scene({"/chat": Limits(failure_threshold=1, retry_after=4)})
    scene.view = raising(ValueError("bug"))
    scene.get()
    scene.clock.advance(10)
    scene.view = lambda: "done"
    refused: list[TestResponse] = []
    scene.inside("/chat", lambda: refused.append(scene.get()))
    assert (refused[0].status_code, refused[0].headers["Retry-After"]) == (503, "4")


def test_a_request_waits_for_a_place() -> None:
    """Where waiting is allowed a request gets the place that comes free in time."""
    scene = Scene({"/chat": Limits(max_concurrent=1, max_queue_seconds=5)})
    answers: list[TestResponse] = []

    def queue_up() -> None:
        begin(lambda: answers.append(scene.get()))
        scene.clock.wait_for_sleepers(1)

    scene.inside("/chat", queue_up)
    wait_until(lambda: len(answers) == 1)
    assert answers[0].status_code == 200
    assert scene.in_flight() == 0


def begin(work: Callable[[], Any]) -> None:
    """Start the work in another thread."""
    threading.Thread(target=work, daemon=True).start()


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait, with a bound, until something holds."""
    for _ in range(4000):
        if holds():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


@pytest.mark.parametrize(("seconds", "status", "reason"), [(2, 503, "full"), (60, 504, "out of time")])
def test_waiting_has_an_end(seconds: float, status: int, reason: str) -> None:
    """Who has waited long enough gets 503; whose own time is over first (here after 25 s) gets 504."""
    scene = Scene({"/chat": Limits(max_concurrent=1, max_queue_seconds=seconds)})
    refused: list[TestResponse] = []
    scene.inside("/chat", lambda: refused.append(scene.get()))
    assert refused[0].status_code == status
    assert refused[0].mimetype == "application/problem+json"
    assert scene.shed() == [("/chat", reason)]
    assert scene.in_flight() == 0


def test_the_callers_time_left_counts_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """X-Request-Timeout-Ms of a believed caller ends its waiting, with 504."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    scene = Scene({"/chat": Limits(max_concurrent=1, max_queue_seconds=20)})
    refused: list[TestResponse] = []
    headers = {"X_Request_Timeout_Ms": "1500", "X_INTERNAL_TOKEN": "token-1"}
    scene.inside("/chat", lambda: refused.append(scene.get(**headers)))
    assert refused[0].status_code == 504
    assert scene.clock.monotonic() == 1.5


def test_the_queue_has_an_end() -> None:
    """No more than so many wait: each of them holds a thread that health checks need, too."""
    scene = Scene({"/chat": Limits(max_concurrent=1, max_queue_seconds=5, max_queue=1)})
    refused: list[TestResponse] = []

    def crowd() -> None:
        begin(scene.get)
        scene.clock.wait_for_sleepers(1)
        refused.append(scene.get())

    scene.inside("/chat", crowd)
    assert refused[0].status_code == 503
    assert scene.shed() == [("/chat", "queue full")]
    wait_until(lambda: scene.in_flight() == 0)


LEVELS = {
    "/chat": Limits(priority=Priority.HIGH, breaker=None),
    "/other": Limits(breaker=None),
    "/chats": Limits(priority=Priority.LOW, breaker=None),
}


def test_the_least_important_are_turned_away_first() -> None:
    """As an app fills up, first the low ones are refused, then the normal ones, at last the high ones."""
    scene = Scene(LEVELS, max_concurrent=10)
    seen: list[tuple[int, ...]] = []

    def fill(number: int) -> None:
        seen.append(tuple(scene.get(path).status_code for path in ("/chats", "/other", "/chat")))
        if number < 10:
            scene.inside("/chat", lambda: fill(number + 1))

    fill(0)
    assert seen == [
        *[(200, 200, 200)] * 10,
        (503, 503, 503),
    ]


def test_each_priority_fills_its_share_alone() -> None:
    """Of ten places the low ones take five at most and the normal ones eight; the high ones may have all."""
    scene = Scene(LEVELS, max_concurrent=10)

    def room(path: str, number: int = 0) -> int:
        if scene.get(path).status_code != 200:
            return number
        most: list[int] = []
        scene.inside(path, lambda: most.append(room(path, number + 1)))
        return most[0]

    assert {path: room(path) for path in LEVELS} == {"/chat": 10, "/other": 8, "/chats": 5}


def test_without_a_higher_priority_nothing_is_reserved() -> None:
    """Where all routes are alike they share all places of the app."""
    scene = Scene({"/chat": Limits(), "/other": Limits()}, max_concurrent=2)
    refused: list[int] = []

    def third() -> None:
        refused.append(scene.get("/chat").status_code)

    scene.inside("/chat", lambda: scene.inside("/other", third))
    assert refused == [503]


@pytest.mark.parametrize(("token", "status"), [("token-1", 503), ("wrong", 200), (None, 200)])
def test_a_priority_is_believed_behind_a_valid_token_only(
    monkeypatch: pytest.MonkeyPatch, token: str | None, status: int
) -> None:
    """A caller we know may call its request unimportant or important; from others it is but a word."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    scene = Scene({"/chat": Limits(breaker=None)}, max_concurrent=2)
    headers = {"X_Request_Priority": "low"} | ({"X_INTERNAL_TOKEN": token} if token else {})
    seen: list[int] = []
    scene.inside("/chat", lambda: seen.append(scene.get(**headers).status_code), **headers)
    assert seen == [status]


def test_a_priority_reaches_no_higher_than_the_highest_route() -> None:
    """There are no places set aside for a priority that no route has."""
    scene = Scene({"/chat": Limits(priority=Priority.LOW)}, max_concurrent=1)
    assert list(scene.protection.get_status()["app"]["priorities"]) == ["low"]
    assert scene.get(X_Request_Priority="high").status_code == 200


def test_a_refused_request_holds_nothing_of_what_it_had_got() -> None:
    """A request that found room on its route and none in the app has left its route again."""
    scene = Scene({"/chat": Limits(max_concurrent=5), "/other": Limits(max_concurrent=1)}, max_concurrent=1)
    held: list[int] = []

    def look() -> None:
        assert scene.get("/chat").status_code == 503

    def note(response: Response) -> Response:
        held.append(scene.in_flight("/chat"))
        return response

    scene.app.after_request(note)
    scene.inside("/other", look)
    assert held == [0, 0]


def test_status_is_json_and_tells_all() -> None:
    """What operators see: limits, who is inside, who was let in or turned away and why, the circuit."""
    scene = Scene({"/chat": Limits(max_concurrent=1, failure_threshold=3)}, max_concurrent=4)
    scene.inside("/chat", scene.get)
    with scene.app.app_context():
        status = jsonify(scene.protection.get_status()).json
    route = status["routes"]["/chat"]
    assert (route["admitted"], route["shed"], route["in_flight"]) == (1, {"full": 1}, 0)
    assert (route["priority"], route["max_concurrent"]) == ("normal", 1)
    assert route["circuit"]["state"] == "closed"
    assert status["app"]["max_concurrent"] == 4


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"max_concurrent": 0}, ValueError, "max_concurrent=0"),
        ({"max_concurrent": True}, TypeError, "max_concurrent=True"),
        ({"max_queue_seconds": -1}, ValueError, "max_queue_seconds=-1"),
        ({"max_queue": 3}, ValueError, "max_queue=3"),
        ({"priority": "urgent"}, ValueError, "priority='urgent'"),
        ({"failure_threshold": 0}, ValueError, "failure_threshold=0"),
        ({"failure_threshold": 2, "breaker": BreakerConfig()}, ValueError, "failure_threshold=2"),
        ({"breaker": 5}, TypeError, "breaker=5"),
        ({"failure_statuses": [200]}, ValueError, "200"),
        ({"failure_statuses": "500"}, TypeError, "500"),
        ({"retry_after": 0}, ValueError, "retry_after=0"),
    ],
)
def test_bad_limits_are_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """A limit that makes no sense is found where it was written."""
    with pytest.raises(error, match=words.replace("(", "\\(")):
        Limits(**arguments)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({}, ValueError),
        ([], TypeError),
        ({"chat": ONE}, ValueError),
        ({"/chat?x": ONE}, ValueError),
        ({"//chat": ONE}, ValueError),
        ({"/chat": ONE, "/chat/": ONE}, ValueError),
        ({"/chat": 5}, TypeError),
        ({7: ONE}, TypeError),
    ],
)
def test_bad_paths_are_refused(limits: Any, error: type[Exception]) -> None:
    """A path that could never match, or stands there twice, is found at the start."""
    with pytest.raises(error):
        protect(Flask("bad"), limits)


def test_an_app_is_protected_once() -> None:
    """Two protections of one app would each count half of it."""
    scene = Scene({"/chat": ONE})
    with pytest.raises(ValueError, match="protected already"):
        protect(scene.app, {"/chat": ONE})
