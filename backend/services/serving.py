"""A local service as a process: its command line, its folders, a waitress server that stops cleanly."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from service_utils.errors import TokenError
from service_utils.http.context import new_request_id
from service_utils.integrations.flask.problems import PROBLEM_JSON

__all__ = ["Server", "data_dir", "open_server", "projects_dir", "serve", "service_parser", "starting"]


class Server(Protocol):
    """What is used of a waitress server."""

    def run(self) -> None:
        """Serve until SystemExit is raised in this thread, then finish what is running and return."""
        ...

    def close(self) -> None:
        """Give the address back."""
        ...


def data_dir(service: str) -> Path:
    """Where a service keeps its data: ``$VAR_DIR/<service>``, ``./var/<service>`` without the variable."""
    return Path(os.environ.get("VAR_DIR") or "var") / service


def projects_dir(data: Path | None = None) -> Path:
    """The folder of all projects' files, which the filesystem service writes and the git service reads.

    ``$PROJECTS_DIR``, else ``projects`` in ``data``, which is the data folder of the filesystem service.
    """
    given = os.environ.get("PROJECTS_DIR")
    return Path(given) if given else (data or data_dir("filesystem")) / "projects"


def service_parser(name: str, port: int) -> argparse.ArgumentParser:
    """The command line all services understand: ``--host --port --data --threads``."""
    parser = argparse.ArgumentParser(prog=f"python -m backend.services.{name}")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=port, help="0 picks a free one (default: %(default)s)")
    folder = data_dir(name)
    parser.add_argument("--data", type=Path, default=folder, help="data folder (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, default=8, help="worker threads (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, got {text}")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, got {text}")
    return number


@contextmanager
def starting(name: str) -> Iterator[None]:
    """The block in which a service makes its app: logs go to stderr, and a failure is told in one line.

    Raises:
        SystemExit: With code 1, for a wrong setting, or a file or database that cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        yield
    except (ValueError, OSError, sqlite3.Error, TokenError) as error:
        hint = " (see VAR_DIR and PROJECTS_DIR)" if isinstance(error, OSError) else ""
        print(f"{name} cannot start: {error}{hint}", file=sys.stderr)
        raise SystemExit(1) from error


def serve(app: Flask, *, host: str = "127.0.0.1", port: int, name: str, threads: int = 8) -> None:
    """Serve ``app`` until SIGTERM or SIGINT; requests being answered are finished (at most 5 s).

    Prints ``<name> listening on http://<host>:<port>`` when it accepts connections; port 0 picks a free one.

    Raises:
        SystemExit: With code 1 and one line on stderr when the address cannot be bound.
    """
    server, bound_port = _server_or_exit(app, host, port, name, threads)
    with _stopped_by_signals():
        print(f"{name} listening on {_address(host, bound_port)}", flush=True)
        server.run()
    server.close()


def open_server(
    app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 8
) -> tuple[Server, int]:
    """A waitress server bound to the address but not running yet, and its port.

    Raises:
        OSError: The address cannot be bound.
        ValueError: The host has no address.
    """
    # It warns as soon as one request waits for a thread, which is everyday life and no news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    limit = app.config["MAX_CONTENT_LENGTH"]
    # Flask's own limit answers with problem JSON; waitress' coarser one only keeps floods off the disk.
    bounds = {} if limit is None else {"max_request_body_size": 4 * limit}
    sockets: dict[int, Any] = {}
    server: Any = create_server(app, sockets, host=host, port=port, threads=threads, ident=None, **bounds)
    for each in sockets.values():
        each.channel_class = _Channel
    # A name with several addresses (localhost: IPv4 and IPv6) makes a server of several sockets.
    several: list[tuple[str, int | str]] = getattr(server, "effective_listen", [])
    return cast(Server, server), int(several[0][1] if several else server.effective_port)


class _Refused(ErrorTask):  # type: ignore[misc]  # waitress tells no types
    """Answers what never gets as far as the app, a body without end for one, as the app would."""

    def execute(self) -> None:
        error, known_as = self.request.error, new_request_id()
        members = {
            "title": error.reason,
            "status": error.code,
            "detail": str(error.body),
            "request_id": known_as,
        }
        body = json.dumps(members).encode() + b"\n"
        self.status = f"{error.code} {error.reason}"
        self.response_headers.extend([("Content-Type", PROBLEM_JSON), ("X-Request-ID", known_as)])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _Refused


def _server_or_exit(app: Flask, host: str, port: int, name: str, threads: int) -> tuple[Server, int]:
    try:
        return open_server(app, host=host, port=port, threads=threads)
    except (OSError, ValueError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        cause = "the port is in use" if in_use else getattr(error, "strerror", None) or str(error)
        print(f"{name} cannot listen on {_address(host, port)}: {cause}", file=sys.stderr)
        raise SystemExit(1) from error


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Make both signals end ``server.run()``, which takes SystemExit as the word to finish and return."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only; whoever started this one stops it
        return
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
