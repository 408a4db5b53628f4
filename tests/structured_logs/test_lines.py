"""Log lines: JSON or text, with context, in one piece."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from service_utils import ResilientServiceClient, configure_logging
from service_utils.http.context import bind_context, unbind_context
from service_utils.http.log_context import RequestContextFilter
from service_utils.registry import ServiceRegistry
from service_utils.structured_logs import JSONFormatter

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOGGER = "tests.lines"


@pytest.fixture
def out() -> io.StringIO:
    """Where the lines go."""
    return io.StringIO()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Loggers are as they were."""
    loggers = [logging.getLogger(), logging.getLogger(LOGGER), logging.getLogger("service_utils")]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    yield
    for each, level, handlers in before:
        each.setLevel(level)
        each.handlers[:] = handlers


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    """What was written."""
    return [json.loads(line) for line in out.getvalue().splitlines()]


def log() -> logging.Logger:
    """Somebody's logger."""
    return logging.getLogger(LOGGER)


class TestJSON:
    @pytest.fixture(autouse=True)
    def configured(self, out: io.StringIO) -> None:
        """As JSON."""
        configure_logging(json=True, level="debug", stream=out, logger=LOGGER)

    def test_a_line(self, out: io.StringIO) -> None:
        """Time, level, logger, message, and what was given besides."""
        log().warning("order %s", 4711, extra={"amount": 5})
        (line,) = lines(out)
        assert line["timestamp"].endswith("Z")
        assert (line["level"], line["logger"], line["message"]) == ("WARNING", LOGGER, "order 4711")
        assert (line["amount"], line["thread"]) == (5, "MainThread")
        assert "request_id" not in line

    def test_within_a_request(self, out: io.StringIO) -> None:
        """Its ids are there."""
        token = bind_context(request_id="r1", trace={"traceparent": TRACE})
        try:
            log().info("x")
        finally:
            unbind_context(token)
        (line,) = lines(out)
        assert line["request_id"] == "r1"
        assert f"00-{line['trace_id']}-{line['span_id']}-01" == TRACE

    @pytest.mark.parametrize(
        "value",
        [float("nan"), float("inf"), object(), b"\xff", {1: {2, 3}}, ["\ud800"], "a\nb", Exception("x")],
        ids=lambda value: type(value).__name__,
    )
    def test_whatever_is_given_is_valid(self, out: io.StringIO, value: Any) -> None:
        """One line, which every JSON reader takes."""
        log().info("x", extra={"value": value})
        (line,) = out.getvalue().splitlines()
        json.loads(line, parse_constant=pytest.fail)

    def test_what_cannot_be_shown(self, out: io.StringIO) -> None:
        """Nobody's __str__ costs a line."""

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        log().info("x", extra={"value": Broken()})
        assert "Broken" in lines(out)[0]["value"]

    def test_what_holds_itself(self, out: io.StringIO) -> None:
        """It has an end."""
        circle: list[Any] = []
        circle.append(circle)
        log().info("x", extra={"value": circle})
        assert lines(out)

    def test_names_that_are_taken(self, out: io.StringIO) -> None:
        """Nobody forges a level."""
        log().info("x", extra={"level": "CRITICAL", "timestamp": 0})
        (line,) = lines(out)
        assert (line["level"], line["extra_level"], line["extra_timestamp"]) == ("INFO", "CRITICAL", 0)

    def test_exceptions(self, out: io.StringIO) -> None:
        """As text, in the same line."""
        try:
            raise ValueError("boom")
        except ValueError:
            log().exception("oops", stack_info=True)
        (line,) = lines(out)
        assert "ValueError: boom" in line["exception"]
        assert "test_lines.py" in line["stack"]

    def test_arguments_that_do_not_fit(self) -> None:
        """The line is not lost."""
        record = logging.makeLogRecord({"msg": "%d apples", "args": ("many",), "levelname": "INFO"})
        assert "many" in json.loads(JSONFormatter().format(record))["message"]

    def test_beside_the_filter_for_text(self, out: io.StringIO) -> None:
        """Its dashes are not taken for ids."""
        log().handlers[-1].addFilter(RequestContextFilter())
        log().info("x")
        assert "request_id" not in lines(out)[0]


def test_the_librarys_own_fields(out: io.StringIO) -> None:
    """Service, attempt, state and reason of calls that fail."""
    configure_logging(stream=out, logger="service_utils")
    registry = ServiceRegistry()
    client = ResilientServiceClient(
        "http://127.0.0.1:1",
        "Chroma Server",
        name="chroma",
        max_retries=1,
        failure_threshold=1,
        registry=registry,
    )
    with pytest.raises(OSError, match="refused"):
        client.get("/query")
    found = lines(out)
    attempt = next(line for line in found if "attempt" in line)
    assert (attempt["service"], attempt["client"], attempt["attempt"]) == ("Chroma Server", "chroma", 1)
    opened = next(line for line in found if "to_state" in line)
    assert (opened["from_state"], opened["to_state"]) == ("closed", "open")
    registry.close()


class TestText:
    def test_a_line(self, out: io.StringIO) -> None:
        """With the id of the request, on one line."""
        configure_logging(
            json=False, stream=out, logger=LOGGER, fmt="%(levelname)s [%(request_id)s] %(message)s"
        )
        token = bind_context(request_id="r1")
        try:
            log().info("one\nINFO [r2] forged \x1b[2J")
        finally:
            unbind_context(token)
        log().info("two")
        assert out.getvalue() == "INFO [r1] one\\nINFO [r2] forged \\x1b[2J\nINFO [-] two\n"

    def test_exceptions_follow(self, out: io.StringIO) -> None:
        """Below the line."""
        configure_logging(json=False, stream=out, logger=LOGGER)
        try:
            raise ValueError("boom")
        except ValueError:
            log().exception("oops", stack_info=True)
        assert "oops\nTraceback" in out.getvalue()
        assert "Stack (most recent call last)" in out.getvalue()


class TestSettingUp:
    def test_again_takes_its_own_place(self, out: io.StringIO) -> None:
        """No line twice; handlers of others stay."""
        other = logging.NullHandler()
        log().addHandler(other)
        configure_logging(stream=out, logger=LOGGER)
        configure_logging(stream=out, logger=LOGGER)
        log().info("x")
        assert len(lines(out)) == 1
        assert other in log().handlers

    def test_the_root_and_standard_error(self) -> None:
        """By default."""
        handler = configure_logging()
        assert handler in logging.getLogger().handlers
        assert getattr(handler, "stream", None) is sys.stderr

    def test_fields_of_all_lines(self, out: io.StringIO) -> None:
        """Such as which application it is."""
        configure_logging(stream=out, logger=LOGGER, fields={"app": "shop"})
        log().info("x")
        assert lines(out)[0]["app"] == "shop"

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"json": "yes"}, TypeError, "json='yes'"),
            ({"level": "LOUD"}, ValueError, "level='LOUD'"),
            ({"level": 1.5}, TypeError, "level=1.5"),
            ({"level": True}, TypeError, "level=True"),
            ({"fmt": "%(message)s"}, ValueError, "fmt="),
            ({"json": False, "fields": {}}, ValueError, "fields="),
            ({"stream": "out.log"}, TypeError, "stream='out.log'"),
            ({"secrets": "hunter2"}, TypeError, "^secrets: must"),
            ({"secrets": [1]}, TypeError, "^secrets: must"),
            ({"json": False, "fmt": "%(nonsense"}, ValueError, "nonsense|format"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
        """Named, with the value, unless it may be a secret; nothing is set up."""
        before = list(log().handlers)
        with pytest.raises(error, match=words):
            configure_logging(**{"logger": LOGGER, **arguments})
        assert log().handlers == before
