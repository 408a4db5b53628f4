"""What travels from the inbound request to outbound calls."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.http.context import (
    ContextThreadPoolExecutor,
    bind_context,
    current_deadline,
    current_request_id,
    current_trace,
    new_request_id,
    propagate,
    trace_headers,
    unbind_context,
    valid_request_id,
    valid_traceparent,
    valid_tracestate,
)
from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"

flavour: ContextVar[str] = ContextVar("flavour", default="plain")


@pytest.fixture
def bound() -> Iterator[str]:
    """A request that is being answered."""
    token = bind_context(request_id="req-1")
    yield "req-1"
    unbind_context(token)


class TestBinding:
    def test_outside_of_a_request_nothing_is_bound(self) -> None:
        """Code that runs outside of any request has no id, no deadline and no trace."""
        assert (current_request_id(), current_deadline(), current_trace()) == (None, None, {})

    def test_all_three_can_be_read_back(self) -> None:
        """What was bound is what the client reads."""
        deadline = Deadline.after(5.0, FakeClock())
        token = bind_context(request_id="abc", deadline=deadline, trace={"traceparent": TRACEPARENT})
        try:
            assert current_request_id() == "abc"
            assert current_deadline() is deadline
            assert current_trace() == {"traceparent": TRACEPARENT}
        finally:
            unbind_context(token)

    def test_unbinding_brings_back_what_was_before(self, bound: str) -> None:
        """A request inside another one leaves the outer one as it was."""
        token = bind_context(request_id="inner")
        unbind_context(token)
        assert current_request_id() == bound

    def test_what_is_left_out_is_not_inherited(self, bound: str) -> None:
        """A new binding holds what it was given and nothing of the one before."""
        token = bind_context(trace={"traceparent": TRACEPARENT})
        assert current_request_id() is None
        unbind_context(token)

    def test_a_changed_copy_of_the_trace_changes_nothing(self) -> None:
        """Neither the dict that was given nor the one that was read is the bound one."""
        given_trace = {"traceparent": TRACEPARENT}
        token = bind_context(trace=given_trace)
        given_trace["traceparent"] = "changed"
        current_trace()["traceparent"] = "changed"
        assert current_trace() == {"traceparent": TRACEPARENT}
        unbind_context(token)

    def test_a_malformed_id_cannot_be_bound(self) -> None:
        """An id that could break a header is refused at once."""
        with pytest.raises(ValueError, match="request_id='a b'"):
            bind_context(request_id="a b")

    def test_unbinding_twice_is_an_error(self) -> None:
        """A token is good for one use."""
        token = bind_context(request_id="once")
        unbind_context(token)
        with pytest.raises(RuntimeError):
            unbind_context(token)

    def test_unbinding_in_another_context_changes_nothing(self, bound: str) -> None:
        """A generator closed by some other thread takes nothing away from that thread."""
        token = bind_context(request_id="inner")
        copy_context().run(unbind_context, token)
        assert current_request_id() == "inner"
        unbind_context(token)


class TestRequestIds:
    def test_new_ids_are_valid_and_differ(self) -> None:
        """A thousand new ids are a thousand different valid ids of 128 bits."""
        ids = {new_request_id() for _ in range(1000)}
        assert len(ids) == 1000
        assert all(valid_request_id(each) and len(each) == 32 for each in ids)

    @pytest.mark.parametrize("text", ["a", "A-Z.0_9", "x" * 128])
    def test_valid(self, text: str) -> None:
        """Letters, digits, dot, underscore and hyphen, up to 128 of them."""
        assert valid_request_id(text)

    @pytest.mark.parametrize("text", [None, "", "x" * 129, "a b", "a\n", "ä", "a/b", "a\x00", "{}"])
    def test_invalid(self, text: str | None) -> None:
        """Anything else is none."""
        assert not valid_request_id(text)

    @given(st.text(max_size=140))
    def test_validity_is_the_documented_pattern(self, text: str) -> None:
        """Whatever is accepted is made of the documented characters alone."""
        assert valid_request_id(text) == bool(re.match(r"\A[A-Za-z0-9._-]{1,128}\Z", text))


class TestTraces:
    @pytest.mark.parametrize(
        "text", [TRACEPARENT, f"00-{TRACE_ID}-{PARENT_ID}-00", f"01-{TRACE_ID}-{PARENT_ID}-01-more"]
    )
    def test_valid_parents(self, text: str) -> None:
        """Version 00 as it is, and later versions, which may say more."""
        assert valid_traceparent(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "00",
            f"ff-{TRACE_ID}-{PARENT_ID}-01",
            f"00-{'0' * 32}-{PARENT_ID}-01",
            f"00-{TRACE_ID}-{'0' * 16}-01",
            f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
            f"00-{TRACE_ID}-{PARENT_ID}-01-more",
            f"00-{TRACE_ID}-{PARENT_ID}-1",
            f"00-{TRACE_ID[:-1]}-{PARENT_ID}-01",
            f"00-{TRACE_ID[:-1]}g-{PARENT_ID}-01",
            TRACEPARENT + "\n",
            " " + TRACEPARENT,
            f"01-{TRACE_ID}-{PARENT_ID}-01more",
            f"01-{TRACE_ID}-{PARENT_ID}-01-a\r\nX-Evil: 1",
        ],
    )
    def test_invalid_parents(self, text: str) -> None:
        """Anything that W3C calls malformed is dropped, line breaks first of all."""
        assert not valid_traceparent(text)

    @pytest.mark.parametrize(
        "text", ["a=1", "vendor=opaque value,t1@v2=x", " a=1 ,\tb=2 ", "a=1,,b=2", "a/b*c-d_e=1"]
    )
    def test_valid_states(self, text: str) -> None:
        """Members are key=value, separated by commas."""
        assert valid_tracestate(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ",",
            "a",
            "a=",
            "A=1",
            "a=1,a=2",
            "a=b=c",
            "a=\x01",
            "a=1\r\nX-Evil: 1",
            ",".join(f"k{n}=1" for n in range(33)),
            "a=" + "x" * 257,
        ],
    )
    def test_invalid_states(self, text: str) -> None:
        """A state with a flaw is no state."""
        assert not valid_tracestate(text)

    def test_the_state_goes_with_its_parent_only(self) -> None:
        """Without a valid parent nothing is passed on, and a bad state does not spoil a good parent."""
        assert trace_headers(TRACEPARENT, "a=1") == {"traceparent": TRACEPARENT, "tracestate": "a=1"}
        assert trace_headers(TRACEPARENT, "A") == {"traceparent": TRACEPARENT}
        assert trace_headers(TRACEPARENT) == {"traceparent": TRACEPARENT}
        assert trace_headers("nonsense", "a=1") == {}
        assert trace_headers(None, "a=1") == {}

    @given(st.text(max_size=300))
    def test_accepted_text_can_stand_in_a_header(self, text: str) -> None:
        """No text that is passed on holds a control character or anything outside of ASCII."""
        for accepted in trace_headers(TRACEPARENT, text).values():
            assert accepted.isascii()
            assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", accepted)


class TestThreads:
    def test_a_new_thread_knows_nothing(self, bound: str) -> None:
        """Without help a thread does not see the request that started it."""
        seen: list[str | None] = []
        thread = threading.Thread(target=lambda: seen.append(current_request_id()))
        thread.start()
        thread.join()
        assert seen == [None]

    def test_propagate_carries_the_context_into_a_thread(self, bound: str) -> None:
        """A propagated function sees the request, and every other context variable, in any thread."""
        flavour_token = flavour.set("sour")
        seen: list[tuple[str | None, str]] = []
        task = propagate(lambda: seen.append((current_request_id(), flavour.get())))
        flavour.reset(flavour_token)
        thread = threading.Thread(target=task)
        thread.start()
        thread.join()
        assert seen == [("req-1", "sour")]

    def test_the_moment_of_wrapping_counts(self, bound: str) -> None:
        """What is bound after wrapping is not seen."""
        task = propagate(current_request_id)
        token = bind_context(request_id="later")
        assert task() == "req-1"
        unbind_context(token)

    def test_many_threads_run_one_propagated_function_at_once(self, bound: str) -> None:
        """Eight threads inside the same function neither collide nor see each other's changes."""
        barrier = threading.Barrier(8, timeout=10)

        def work(number: int) -> tuple[str | None, str]:
            barrier.wait()
            before = flavour.get()
            flavour.set(f"flavour {number}")
            barrier.wait()
            return current_request_id(), before + ", " + flavour.get()

        task = propagate(work)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(task, range(8)))
        assert results == [("req-1", f"plain, flavour {number}") for number in range(8)]
        assert flavour.get() == "plain"

    def test_arguments_results_and_names_pass_through(self) -> None:
        """A propagated function is called and looks like the one it was made from."""

        def divide(number: int, *, by: int) -> float:
            """Divide."""
            return number / by

        task = propagate(divide)
        assert task(6, by=3) == 2
        assert (task.__name__, task.__doc__) == ("divide", "Divide.")
        with pytest.raises(ZeroDivisionError):
            task(1, by=0)

    def test_a_coroutine_function_is_refused(self) -> None:
        """A coroutine function would run outside of the context it was given, so it is refused."""
        with pytest.raises(TypeError, match="coroutine"):
            propagate(asyncio.sleep)

    def test_what_cannot_be_called_is_refused(self) -> None:
        """Passing a result instead of a function is told at once."""
        with pytest.raises(TypeError, match="func=3"):
            propagate(3)  # type: ignore[arg-type]

    def test_the_executor_captures_at_each_submission(self) -> None:
        """One long-lived pool serves many requests, each task with its own request."""
        with ContextThreadPoolExecutor(2) as pool:
            tasks = []
            for number in range(20):
                token = bind_context(request_id=f"req-{number}")
                tasks.append(pool.submit(current_request_id))
                unbind_context(token)
            assert [task.result(10) for task in tasks] == [f"req-{number}" for number in range(20)]
            assert pool.submit(current_request_id).result(10) is None

    def test_the_executor_maps_with_the_context_too(self, bound: str) -> None:
        """``map`` is no way round the context."""
        with ContextThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda number: (number, current_request_id()), range(3)))
        assert results == [(0, bound), (1, bound), (2, bound)]

    def test_the_executor_is_a_thread_pool(self) -> None:
        """It can stand wherever a ThreadPoolExecutor is asked for, errors included."""
        with ContextThreadPoolExecutor(1) as pool:
            assert isinstance(pool, ThreadPoolExecutor)
            with pytest.raises(ZeroDivisionError):
                pool.submit(lambda: 1 / 0).result(10)
        with pytest.raises(RuntimeError):
            pool.submit(current_request_id)

    def test_tasks_of_one_event_loop_do_not_mix(self) -> None:
        """Two coroutines that run in turns each keep their own request."""

        async def handle(name: str) -> str | None:
            token = bind_context(request_id=name)
            await asyncio.sleep(0)
            try:
                return current_request_id()
            finally:
                unbind_context(token)

        async def both() -> list[str | None]:
            return list(await asyncio.gather(handle("a"), handle("b")))

        assert asyncio.run(both()) == ["a", "b"]


def test_importing_it_loads_no_event_loop() -> None:
    """A synchronous program does not pay for asyncio or Flask."""
    code = "import sys, service_utils.http.context; print(*({'asyncio', 'flask'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "\n"
